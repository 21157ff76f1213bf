"""The tables of webhooks; all others are in `storage.database.tables`."""

from sqlalchemy import Column, Double, Index, Integer, String, Table, Text

from storage.database.tables import metadata

#: Webhook messages, and what became of them (`storage.events.webhooks`).
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("render_id", String(32), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("body", Text, nullable=False),
    # As of its render.
    Column("form", String(20)),
    Column("api_url", Text),
    Column("state", String(9), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("answer", Text),
    Column("created_at", Double, nullable=False),
    Column("delivered_at", Double),
    # Whose it is and where it goes (`storage.events.receivers`); unknown of what no longer waited when this was added.
    Column("receiver", Text, nullable=False, server_default="unknown"),
    Index("ix_deliveries_due", "receiver", "next_at"),
    Index("ix_deliveries_owner", "owner", "created_at"),
    Index("ix_deliveries_render_id", "render_id"),
)

#: Receivers of webhooks that failed, or took long, the last time (`storage.events.receivers`).
failing_receivers = Table(
    "failing_receivers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("failed_at", Double, nullable=False),
)

#: What processes were started with last, of the settings on which they must agree (`storage.access.noted_settings`).
noted_settings = Table(
    "noted_settings",
    metadata,
    Column("process", String(20), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
    Column("noted_at", Double, nullable=False),
)
