"""What a picture's recipe says of it alone: pictures that leave their slots together are completed together again."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

#: In place, whatever else the function has come to say.
_COMPLETE_WITH_RECIPES = """
DO $do$
DECLARE
    said text := pg_get_functiondef('complete_batch'::regproc);
    complete text;
BEGIN
    complete := replace(
        replace(said, 'remarks = p.remarks', 'remarks = p.remarks, own_recipe = p.own_recipe'),
        'pixels_sha256 text, remarks text', 'pixels_sha256 text, remarks text, own_recipe text'
    );
    IF length(complete) <> length(said) + length(', own_recipe = p.own_recipe, own_recipe text') THEN
        RAISE EXCEPTION 'the function complete_batch has no place for a recipe';
    END IF;
    EXECUTE complete;
END $do$
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("own_recipe", sa.Text))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_COMPLETE_WITH_RECIPES)
