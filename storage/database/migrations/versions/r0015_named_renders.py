"""Renders have names and notes, and say which models they need: lists are narrowed by them."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("renders", sa.Column("name", sa.String(100)))
    op.add_column("renders", sa.Column("note", sa.Text))
    op.add_column("renders", sa.Column("models", sa.Text))
    op.create_index("ix_renders_name", "renders", ["name", "created_at"])
    where = sa.text("labels IS NOT NULL")
    op.create_index("ix_jobs_labelled", "jobs", ["render_id"], sqlite_where=where, postgresql_where=where)
    _note_models()


def _note_models() -> None:
    """Note the models of the renders that are there."""
    jobs = sa.table("jobs", *map(sa.column, ("render_id", "model")))
    renders = sa.table("renders", *map(sa.column, ("id", "models")))
    once = sa.select(jobs.c.render_id, jobs.c.model).distinct().order_by(jobs.c.render_id, jobs.c.model)
    connection = op.get_bind()
    by_render: dict[str, list[str]] = {}
    for render_id, model in connection.execute(once):
        by_render.setdefault(render_id, []).append(model)
    if by_render:
        connection.execute(
            sa.update(renders).where(renders.c.id == sa.bindparam("this")).values(models=sa.bindparam("said")),
            [{"this": render_id, "said": f" {' '.join(models)} "} for render_id, models in by_render.items()],
        )
