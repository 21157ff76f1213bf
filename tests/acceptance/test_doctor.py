"""`farm doctor`: every address tried, each fault told with its remedy."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import text

from storage.database.connection import Database
from storage.settings import Settings
from tests.acceptance.command import Home
from tests.safetensors_files import written
from tests.servers import free_port


def examined(home: Home, *, code: int = 0, settings: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """What the doctor found: thing → grade and words. The same as text and as JSON."""
    told = home.farm("doctor", "--json", code=code, settings=settings)
    lines = home.farm("doctor", code=code, settings=settings).out.splitlines()
    assert told.err == ""
    found = {finding["what"]: (finding["grade"], finding["words"]) for finding in told.json}
    marks = {"ok": "✓", "warning": "!", "broken": "✗"}
    assert [line.split()[:2] for line in lines] == [[marks[grade], what] for what, (grade, _) in found.items()]
    return found


def grades(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {what: grade for what, (grade, _) in found.items()}


@pytest.fixture
def addresses(redis_url: str, sqlite: str, tmp_path: Path) -> dict[str, str]:
    return {"FARM_DATABASE_URL": sqlite, "FARM_BROKER_URL": redis_url, "FARM_OBJECTS_URL": str(tmp_path / "objects")}


ALL = ("settings", "home", "models", "database", "broker", "objects", "workers")


def test_a_machine_on_which_nothing_was_rendered_yet_is_healthy(home: Home) -> None:
    found = examined(home)
    assert grades(found) == dict.fromkeys(ALL, "ok")
    assert "farm up" in found["broker"][1]


def test_a_farm_that_runs_is_healthy(served: Home) -> None:
    # The home's own registry names a folder that is not there yet.
    models = served.file("whole.toml", '[models.simulated]\nkind = "simulated"\n')
    found = examined(served, settings={"FARM_MODELS_FILE": models})
    assert {what: grade for what, grade in grades(found).items() if what != "workers"} == dict.fromkeys(ALL[:-1], "ok")
    assert "reachable" in found["broker"][1]


def test_a_farm_elsewhere_without_workers_is_worth_a_warning(home: Home, addresses: dict[str, str]) -> None:
    found = examined(home, settings=addresses)
    assert grades(found) == dict.fromkeys(ALL, "ok") | {"workers": "warning"}
    assert "farm-worker" in found["workers"][1]


def test_files_that_cannot_be_drawn_with_are_called_what_they_are(home: Home) -> None:
    written(home.folder / "vae.safetensors", {"decoder.conv_in.weight": (1,), "x": (1,), "y": (1,)})
    written(home.folder / "empty.safetensors", {})
    entries = '[models.m]\nkind = "diffusers"\nsource = "vae.safetensors"\n[loras.l]\nsource = "empty.safetensors"\n'
    registry = home.file("models.toml", entries)
    grade, words = examined(home, code=3, settings={"FARM_MODELS_FILE": registry})["models"]
    assert grade == "broken"
    assert "m: vae.safetensors cannot be loaded: it is a VAE, not a checkpoint; name it as `vae` of a model" in words
    assert "LoRA l: cannot be loaded: there is nothing in it but its header" in words


def test_a_misspelt_setting_is_worth_a_warning(home: Home) -> None:
    grade, words = examined(home, settings={"FARM_DATABASE_ULR": "x"})["settings"]
    assert grade == "warning"
    assert "FARM_DATABASE_ULR" in words


@pytest.mark.parametrize(
    ("what", "settings", "says"),
    [
        ("models", {"FARM_MODELS_FILE": "missing.toml"}, "missing.toml"),
        ("database", {"FARM_DATABASE_URL": "postgresql://farm:hidden@127.0.0.1:{port}/farm"}, "127.0.0.1:{port}"),
        ("broker", {"FARM_BROKER_URL": "redis://:hidden@127.0.0.1:{port}/0"}, "127.0.0.1:{port}"),
        ("broker", {"FARM_BROKER_URL": "{wrong password}"}, "password is refused"),
        ("objects", {"FARM_OBJECTS_URL": "missing.toml/below"}, "missing.toml"),
        ("objects", {"FARM_OBJECTS_URL": "gs://bucket"}, "s3://bucket"),
    ],
)
def test_what_is_broken_is_found_and_nothing_else_is_blamed(
    home: Home, addresses: dict[str, str], what: str, settings: dict[str, str], says: str
) -> None:
    port = str(free_port())
    wrong = "redis://:hidden@" + addresses["FARM_BROKER_URL"].partition("@")[2]
    filled = {
        name: value.replace("{port}", port).replace("{wrong password}", wrong) for name, value in settings.items()
    }
    home.file("missing.toml" if what == "objects" else "unrelated", "in the way")

    found = examined(home, code=3, settings=addresses | filled)

    assert [thing for thing, grade in grades(found).items() if grade == "broken" and thing != "workers"] == [what]
    assert says.replace("{port}", port) in found[what][1]
    assert "hidden" not in str(found)


def test_a_home_that_cannot_be_written_to_is_found(home: Home, addresses: dict[str, str]) -> None:
    home.file("file", "in the way")
    grade, words = examined(home, code=3, settings=addresses | {"FARM_HOME": "file/home"})["home"]
    assert grade == "broken"
    assert "FARM_HOME=file/home" in words


def test_a_database_without_tables_is_found_with_the_command_that_makes_them(
    home: Home, addresses: dict[str, str], empty_postgres: str
) -> None:
    settings = addresses | {"FARM_DATABASE_URL": empty_postgres}
    assert "farm db upgrade" in examined(home, code=3, settings=settings)["database"][1]
    home.farm("db", "upgrade", settings=settings)
    assert grades(examined(home, settings=settings))["database"] == "ok"


def test_a_database_of_a_newer_farm_is_found(home: Home, addresses: dict[str, str], postgres: str) -> None:
    database = Database(postgres)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    database.close()
    found = examined(home, code=3, settings=addresses | {"FARM_DATABASE_URL": postgres})
    assert "newer farm" in found["database"][1]


def bucket_of(settings: Settings) -> dict[str, str]:
    return {"FARM_OBJECTS_URL": settings.objects, "FARM_S3_ENDPOINT_URL": str(settings.s3_endpoint_url)}


def test_a_bucket_is_tried_and_left_as_it_was(home: Home, addresses: dict[str, str], s3: Settings) -> None:
    grade, words = examined(home, settings=addresses | bucket_of(s3))["objects"]
    assert grade == "ok"
    assert "first write wins" in words


def test_a_store_that_overwrites_is_refused(
    home: Home, addresses: dict[str, str], s3_with_signatures: Settings
) -> None:
    grade, words = examined(home, code=3, settings=addresses | bucket_of(s3_with_signatures))["objects"]
    assert grade == "broken"
    assert "If-None-Match" in words


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"FARM_OBJECTS_URL": "s3://no-such-bucket"}, "create it"), ({"AWS_SECRET_ACCESS_KEY": "hidden"}, "denied")],
)
def test_a_bucket_that_is_missing_or_forbidden_is_found(
    home: Home, addresses: dict[str, str], s3_with_signatures: Settings, settings: dict[str, str], says: str
) -> None:
    found = examined(home, code=3, settings=addresses | bucket_of(s3_with_signatures) | settings)
    assert found["objects"][0] == "broken"
    assert says in found["objects"][1]
    assert "hidden" not in str(found)
