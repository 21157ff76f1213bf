"""What strangers send to a farm for an hour, and what its honest users notice (`python -m tests.hostile --help`)."""
