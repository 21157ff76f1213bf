"""The tables of schedules and their firings."""

from sqlalchemy import Boolean, Column, Double, Index, Integer, String, Table, Text, UniqueConstraint, false

from storage.database.tables import metadata

#: Renders that are submitted again and again (`storage.renders.schedules`).
schedules = Table(
    "schedules",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    # None: it fires once.
    Column("cron", String(200)),
    # When it fires, if that is once.
    Column("at", Double),
    Column("timezone", String(64), nullable=False),
    # When its pictures may be rendered, such as 01:00-06:00; None: at any time.
    Column("window", String(11)),
    Column("overlap", String(6), nullable=False),
    Column("catch_up", String(4), nullable=False),
    Column("seeds", String(5), nullable=False),
    # What to render (JSON).
    Column("order", Text, nullable=False),
    # How much each firing, and all of a day, may be (JSON); None: any amount.
    Column("limits", Text),
    # How often it was edited: whoever read it before an edit does nothing by what it read.
    Column("version", Integer, nullable=False, server_default="0"),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("created_at", Double, nullable=False),
    # Every time planned up to then is decided.
    Column("decided_to", Double, nullable=False),
    UniqueConstraint("owner", "name"),
)

#: What became of each planned time of a schedule; the key is what makes a firing happen once.
firings = Table(
    "firings",
    metadata,
    Column("schedule_id", String(12), primary_key=True),
    Column("planned_at", Double, primary_key=True),
    Column("at", Double, nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("render_id", String(32)),
    Column("note", Text),
    # The window's state that its render last followed: between two changes, people hold and release as they like.
    Column("window_open", Boolean),
    # While it is taken, and not accepted yet: whose it is, or before when nobody is to try again.
    Column("lease_until", Double),
    Column("fence", Integer, nullable=False, server_default="0"),
    # How many processes were given it and did not give it back.
    Column("attempt", Integer, nullable=False, server_default="0"),
    # Accepted apart from the short ones, which are not to wait for it.
    Column("long", Boolean, nullable=False, server_default=false()),
    # Of its render: how many, and how long they take a device as far as that was known.
    Column("pictures", Integer),
    Column("device_seconds", Double),
    Index("ix_firings_render_id", "render_id"),
    # What is to be accepted.
    Index("ix_firings_taken", "planned_at"),
)

#: Since when some scheduler process has looked at the schedules without a pause (`storage.renders.firings`).
ticking = Table(
    "ticking",
    metadata,
    # One row: "schedules".
    Column("clock", String(16), primary_key=True),
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
)
