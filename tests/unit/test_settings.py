import getpass
from pathlib import Path

import pytest

from storage.errors import BadSettings
from storage.settings import Settings, misspelt_settings, read_settings, without_secrets


def test_a_farm_without_addresses_is_embedded_and_lives_in_its_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.embedded
    assert settings.database == f"sqlite:///{tmp_path}/farm.db"
    assert settings.objects == f"{tmp_path}/objects"
    assert settings.local_models_file == tmp_path / "models.toml"


def test_a_variable_that_is_no_setting_is_told_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    before = misspelt_settings()
    for name in ("FARM_MODELS_FIEL", "FARM_OWNER", "FARM_QQ", "FARMER"):
        monkeypatch.setenv(name, "x")
    assert sorted({*misspelt_settings()} - {*before}) == [
        "FARM_MODELS_FIEL is not a setting; did you mean FARM_MODELS_FILE?",
        "FARM_QQ is not a setting (deploy/env.example lists all)",
    ]


@pytest.mark.parametrize("name", ["FARM_DATABASE_URL", "FARM_BROKER_URL", "FARM_OBJECTS_URL"])
def test_a_farm_with_any_address_is_not_embedded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "sqlite:////data/farm.db")
    assert not read_settings().embedded


def test_a_home_given_as_a_relative_path_is_one_place_whatever_the_working_directory_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().database == f"sqlite:///{tmp_path}/.farm/farm.db"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d?sslmode=require", "postgresql+psycopg://u:p@h/d?sslmode=require"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("sqlite:////data/postgres://farm.db", "sqlite:////data/postgres://farm.db"),
    ],
)
def test_an_address_as_hosting_services_write_it_gets_its_driver(
    given: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", given)
    assert read_settings().database == used


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FARM_DATABASE_URL", "FARM_OWNER", "FARM_MAX_ATTEMPTS", "FARM_HOME"):
        monkeypatch.setenv(name, "")
    settings = read_settings()
    assert settings.embedded
    assert settings.owner == getpass.getuser()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FARM_MAX_ATTEMPTS", "0"),
        ("FARM_MAX_ATTEMPTS", "three"),
        ("FARM_LEASE_SECONDS", "-1"),
        ("FARM_LEASE_SECONDS", "nan"),
        ("FARM_LEASE_SECONDS", "inf"),
        ("FARM_TICKET_WINDOW", "5"),
        ("FARM_LOG_LEVEL", "loud"),
        ("FARM_OWNER", "a b"),
        ("FARM_OWNER", "x" * 65),
        ("FARM_OWNER", "../root"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=f"^{name}='") as refusal:
        read_settings()
    assert value in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().max_attempts = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://farm:secret@db:5432/farm", "postgresql+psycopg://farm:***@db:5432/farm"),
        ("redis://:secret@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://:p%40ss:word@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://:se@cret@redis:6379/0", "redis://:***@redis:6379/0"),
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("postgresql+psycopg://farm@db/farm", "postgresql+psycopg://farm@db/farm"),
        ("sqlite:////data/farm.db", "sqlite:////data/farm.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("rediss://:secret@[::1]:6379/0", "rediss://:***@[::1]:6379/0"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://farm:se/cret@db/farm",
        "postgresql://farm:se?cret@db/farm",
        "redis://:se#cret@redis:6379/0",
        "redis://:se[cret@redis:6379/0",
        "redis://redis:6379/0?password=secret",
        "postgresql+psycopg://farm@db/farm?password=secret",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands_and_whatever_is_in_it(url: str) -> None:
    assert "cret" not in without_secrets(url)


@pytest.mark.parametrize("places", ["s3://prompts", "s3://prompts/of-ann", " s3://a/b/ , s3://c", ""])
def test_where_prompts_may_be_read_is_in_buckets(places: str) -> None:
    assert Settings(prompt_sources=places).prompt_sources == places


@pytest.mark.parametrize("places", ["/etc", "s3://", "s3:///etc", "https://here/x", "s3://a, /etc"])
def test_where_else_prompts_are_not_read(places: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_PROMPT_SOURCES", places)
    with pytest.raises(BadSettings, match="is not a place in a bucket"):
        read_settings()


@pytest.mark.parametrize("name", sorted(name for name in Settings.model_fields if name.endswith("_seconds")))
@pytest.mark.parametrize("value", ["inf", "1e400", "nan", "1e10", "0", "-1"])
def test_a_time_that_never_ends_or_is_none_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"FARM_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSettings, match=f"{variable}='{value}': Input should be"):
        read_settings()
