"""The OpenAPI document says of everything in it what it means, and which values there are."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.api.access import Open
from scheduler.api.app import make_api
from scheduler.api.context import ApiContext
from scheduler.services import open_services
from storage.rules.faults import Fault
from storage.rules.states import PRIORITY_NAMES, RENDER_STATES, State
from storage.settings import Settings
from storage.spec.sampler_names import SAMPLERS


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home: Path = tmp_path_factory.mktemp("document")
    services = open_services(Settings(home=home, owner="ann"))
    try:
        return make_api(ApiContext(services, None), without_keys=Open.TO_NOBODY).openapi()
    finally:
        services.database.close()


def schemas(document: dict[str, Any]) -> dict[str, Any]:
    # FastAPI makes a schema of a form's fields itself.
    found: dict[str, Any] = document["components"]["schemas"]
    return {name: schema for name, schema in found.items() if not name.startswith("Body_")}


def operations(document: dict[str, Any]) -> dict[str, Any]:
    addresses = {**document["paths"], **document.get("webhooks", {})}
    return {f"{method} {path}": told for path, methods in addresses.items() for method, told in methods.items()}


def test_every_schema_and_every_field_is_described(document: dict[str, Any]) -> None:
    fields = {
        f"{name}.{field}": told
        for name, schema in document["components"]["schemas"].items()
        for field, told in schema.get("properties", {}).items()
    }
    assert len(fields) > 200
    assert [name for name, told in {**schemas(document), **fields}.items() if not told.get("description")] == []


def test_every_route_every_parameter_and_every_tag_is_described(document: dict[str, Any]) -> None:
    routes = operations(document)
    parameters = {f"{name} {one['name']}": one for name, told in routes.items() for one in told.get("parameters", ())}
    assert len(parameters) > 50
    assert [name for name, told in {**routes, **parameters}.items() if not told.get("description")] == []
    described = {tag["name"] for tag in document["tags"]}
    assert {tag for told in routes.values() for tag in told["tags"]} == described


@pytest.mark.parametrize(
    ("schema", "field", "values"),
    [
        ("RenderForm", "state", {*RENDER_STATES}),
        ("RenderForm", "priority", {*PRIORITY_NAMES.values()}),
        ("JobForm", "state", {*State}),
        ("JobForm", "fault", {*Fault}),
        ("RenderBody", "priority", {*PRIORITY_NAMES.values()}),
        ("RenderBody", "sampler", {*SAMPLERS, *SAMPLERS.values()}),
        ("ScheduleForm", "overlap", {"skip", "queue", "cancel"}),
        ("FiringForm", "outcome", {"taken", "fired", "skipped", "missed", "failed"}),
        ("WorkerAnswer", "state", {"idle", "loading", "rendering", "quarantined", "silent"}),
        ("BatchAnswer", "status", {"in_progress", "completed", "cancelled"}),
        ("Prediction", "status", {"starting", "processing", "succeeded", "failed", "canceled"}),
    ],
)
def test_a_field_of_few_values_lists_them(document: dict[str, Any], schema: str, field: str, values: set[str]) -> None:
    told = schemas(document)[schema]["properties"][field]
    found = next(one for one in map(resolved(document), told.get("anyOf", [told])) if one.get("type") != "null")
    assert set(found["enum"]) == values


def resolved(document: dict[str, Any]) -> Any:
    def resolve(told: dict[str, Any]) -> dict[str, Any]:
        name = told.get("$ref", "").rpartition("/")[2]
        return document["components"]["schemas"][name] if name else told

    return resolve


def test_times_are_told_twice_as_numbers_and_as_text(document: dict[str, Any]) -> None:
    pairs = 0
    for name in ("RenderForm", "JobForm", "ScheduleForm", "FiringForm"):
        fields = schemas(document)[name]["properties"]
        for field in fields:
            if field == "at" or field.endswith("_at"):
                told = fields[f"{field.removesuffix('at')}time"]
                [text] = [one for one in told.get("anyOf", [told]) if one["type"] == "string"]
                assert text["format"] == "date-time", (name, field)
                pairs += 1
    assert pairs == 8
