"""The tables of API keys; all others are in `storage.database.tables`."""

from sqlalchemy import BigInteger, Column, Double, Integer, String, Table, Text

from storage.database.tables import metadata

#: Who may use the API. Only a hash of each key is stored.
keys = Table(
    "keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("role", String(6), nullable=False),
    Column("limits", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    # Where to send events of renders that name no webhook of their own, and which kinds (separated by spaces).
    Column("webhook_url", Text),
    Column("webhook_events", Text),
)

#: How many pictures were accepted with a key, minute by minute of the last day (`storage.access.quotas`).
key_usage = Table(
    "key_usage",
    metadata,
    Column("key_id", String(12), primary_key=True),
    # Since 1970.
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("pictures", BigInteger, nullable=False),
)

#: Logins of browsers that were ended before their time: their cookies count no more. None stays for longer than that.
ended_logins = Table(
    "ended_logins",
    metadata,
    Column("login", String(32), primary_key=True),
    # When it would have ended by itself, seconds since 1970.
    Column("until", Double, nullable=False),
)
