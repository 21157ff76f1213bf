"""Servers for the whole session; a fresh database, key space or bucket for each test; nothing left behind."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest

from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests import servers
from tests.servers import PostgresServer, S3Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jobs", type=int, default=400, help="How many jobs the load test submits.")
    parser.addoption("--prompts", type=int, default=100, help="How many rows the manifest has whose makers are killed.")
    parser.addoption("--kills", type=int, default=5, help="How often they are killed.")
    parser.addoption("--outage", type=float, default=8, help="Seconds for which the outage tests take services away.")
    parser.addoption("--examples", type=int, default=40, help="How many histories the model of the moves goes through.")


# -- surroundings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fails the session's last test if a process that it started, child or daemon, still runs after all fixtures."""
    session = secrets.token_hex(8)
    os.environ[servers.MARK] = session
    yield
    del os.environ[servers.MARK]
    _, alive = psutil.wait_procs(servers.left_behind(session), timeout=5)
    assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="session", autouse=True)
def a_ctrl_c_is_heard() -> Iterator[None]:
    """A shell that runs the tests in the background has them, and so all that they start, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """A developer's own farm and own AWS account stay out of the tests."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("FARM_", "AWS_"))]:
            environment.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            environment.setenv(name, os.devnull)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


# -- databases -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with servers.postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database with tables and no rows, to be copied."""
    name = postgres_server.create()
    _migrate(postgres_server.url(name))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with tables and no rows, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def postgres(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The address of a PostgreSQL database with tables and no rows."""
    name = postgres_server.create(template=postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> str:
    """The address of an SQLite database with tables and no rows."""
    return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'farm.db')}"


@pytest.fixture
def empty_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a PostgreSQL database without tables."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def empty_sqlite(tmp_path: Path) -> str:
    """The address of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """A test that uses this, or what is made from it, runs on each of them."""
    kind: str = request.param
    return kind


@pytest.fixture
def database(database_kind: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with tables and no rows."""
    database = Database(request.getfixturevalue("sqlite" if database_kind == "sqlite" else "postgres"))
    yield database
    database.close()


@pytest.fixture
def empty_database(database_kind: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without tables."""
    database = Database(request.getfixturevalue("empty_sqlite" if database_kind == "sqlite" else "empty_postgres"))
    yield database
    database.close()


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


# -- messages --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The address of a Redis-compatible server without any key."""
    servers.empty_redis(redis_server)
    return redis_server


# -- objects ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with servers.moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with servers.rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def s3(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for a fresh bucket of a store that creates objects once, with its keys in the environment."""
    return _fresh_bucket(moto_server, monkeypatch)


@pytest.fixture
def s3_with_signatures(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for a fresh bucket of a store that checks keys and signatures, but overwrites."""
    return _fresh_bucket(rclone_server, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    """Settings for objects in a folder."""
    return Settings(home=tmp_path / "home", objects_url=str(tmp_path / "objects"))


@pytest.fixture(params=["local", "s3"])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    """An object store without any object."""
    return open_objects(request.getfixturevalue(request.param))


def _fresh_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # boto3's session remembers the first keys that it saw.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    # A prefix, as in a bucket that holds other things too.
    return Settings(objects_url=f"s3://{server.create_bucket()}/farm", s3_endpoint_url=server.endpoint_url)
