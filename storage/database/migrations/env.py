"""Run by Alembic: `storage.database.schema` hands over the connection."""

from alembic import context

from storage.database.partial_indexes import complete_metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=complete_metadata(), render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
