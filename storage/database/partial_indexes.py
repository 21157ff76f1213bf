"""Which rows an index covers, where that is not all of them."""

from collections.abc import Mapping

from sqlalchemy import MetaData, text

import storage.database.export_tables
import storage.database.key_tables
import storage.database.schedule_tables
import storage.database.webhook_tables  # noqa: F401 - their tables are part of the metadata once they are loaded
from storage.database.tables import metadata

#: Index → the rows that it covers; where the databases need different words, in each.
_CONDITIONS: Mapping[str, str | Mapping[str, str]] = {
    **dict.fromkeys(("ix_jobs_queue", "ix_jobs_fill", "ix_jobs_rounds"), "state = 'queued'"),
    "ix_jobs_custom_id": "custom_id IS NOT NULL",
    "ix_jobs_leases": "state = 'running'",
    "ix_jobs_held": "state = 'held'",
    "ix_jobs_labelled": "labels IS NOT NULL",
    "ix_renders_unfinished": "finished_at IS NULL",
    "ix_renders_timed": "timezone IS NOT NULL AND finished_at IS NULL",
    # SQLite knows a query's rows to be those of an index only where both say it in the same letters.
    "ix_renders_purging": {"sqlite": "purging = 1", "postgresql": "purging"},
    "ix_deliveries_due": "state = 'pending'",
    "ix_firings_taken": "outcome = 'taken'",
}


def complete_metadata() -> MetaData:
    """Return the tables with the conditions of their partial indexes: for whoever compares or creates them.

    Reading and writing rows does without: an option of a dialect makes SQLAlchemy import all drivers of that dialect,
    which takes a tenth of a second at the start of every command.
    """
    for table in metadata.tables.values():
        for index in table.indexes:
            if (condition := _CONDITIONS.get(str(index.name))) is not None:
                for dialect in ("sqlite", "postgresql"):
                    words = condition if isinstance(condition, str) else condition[dialect]
                    index.dialect_kwargs[f"{dialect}_where"] = text(words)
    return metadata
