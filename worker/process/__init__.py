"""The processes of a worker machine: supervisor, one parent per device, one child that owns it."""
