"""Rows that are sent to the database in one parameter, so that one statement serves any number of them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import JSON, ColumnElement, bindparam, column, func
from sqlalchemy.types import TypeEngine


def sent_rows(dialect: str, parameter: str, types: Mapping[str, TypeEngine[Any]]) -> dict[str, Any]:
    """Return the columns of a table that is made of a parameter: a list of mappings, whose keys are their names.

    For the FROM of a statement. Each value is a number, a text or None.
    """
    sent: ColumnElement[Any] = bindparam(parameter, type_=JSON)
    if dialect == "postgresql":
        columns = [column(name, kind) for name, kind in types.items()]
        table = func.json_to_recordset(sent).table_valued(*columns, name=parameter).render_derived(with_types=True)
        return {name: table.c[name] for name in types}
    value = func.json_each(sent).table_valued("value", name=parameter).c.value
    return {name: func.json_extract(value, f"$.{name}") for name in types}
