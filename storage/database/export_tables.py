"""The table of exports: apart from `tables.py`, which is as long as a file may be."""

from sqlalchemy import Column, Double, String, Table, Text, UniqueConstraint

from storage.database.tables import metadata

#: Exports that were started: while one is unfinished, the pictures that it needs are not deleted.
exports = Table(
    "exports",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("render_id", String(32), nullable=False),
    Column("format", String(16), nullable=False),
    Column("target", Text, nullable=False),
    # How it is cut into shards (JSON): going on with it takes the same.
    Column("options", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("finished_at", Double),
    UniqueConstraint("render_id", "format", "target"),
)
