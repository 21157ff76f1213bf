"""Servers for the whole run; a fresh database, key space or bucket for each test; nothing left behind."""

import os
import secrets
import shutil
import signal
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import psutil
import pytest

from storage.database import connection
from storage.database.connection import Database
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests import durations, examples, poolers, servers, service_models, unflushed
from tests.compiled import create_sharing_engine
from tests.forks import Starter
from tests.garbage import none_collected
from tests.servers import PostgresServer, S3Server
from tests.shared_servers import POSTGRES_TEMPLATE, Invitation, Name, ServerKeeper
from tests.sqlite_tables import tables_as_bytes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jobs", type=int, default=400, help="How many jobs the load test submits.")
    parser.addoption("--prompts", type=int, default=100, help="How many rows the manifest has whose makers are killed.")
    parser.addoption("--kills", type=int, default=5, help="How often they are killed.")
    parser.addoption("--pictures", type=int, default=12, help="How many pictures are made in turmoil, and once again.")
    parser.addoption("--outage", type=float, default=6, help="Seconds for which the outage tests take services away.")
    parser.addoption("--examples", type=int, default=40, help="How many histories the model of the moves goes through.")
    parser.addoption(
        "--sequences", type=int, default=12, help="After how many sequences of faults a picture is compared."
    )
    parser.addoption(
        "--databases", default="sqlite,postgresql", help="Deselects the tests that need a database not named here."
    )
    parser.addoption(
        "--stores", default="folder,s3", help="Deselects the tests that need an object store not named here."
    )
    parser.addoption(
        "--backends", default="simulated,diffusers", help="Deselects the tests of backends not named here."
    )
    parser.addoption("--pgbouncer", action="store_true", help="Has tests reach PostgreSQL through PgBouncer.")
    parser.addoption("--screenshots", metavar="DIR", help="Keeps pictures of the page there (default: among pytest's).")
    parser.addoption("--few-examples", action="store_true", help="Has Hypothesis try a fifth of its examples.")
    parser.addoption("--durations-to", metavar="FILE", help="Writes the time that each file of tests took.")


#: What a test needs, by the fixtures (or parameters, where those are named after fixtures) that it uses.
_NEEDS = {
    "sqlite": {"sqlite"},
    "postgresql": {"postgresql", "postgres", "postgres_server", "postgresql+s3"},
    "folder": {"local"},
    "s3": {"s3", "s3_with_signatures", "moto_server", "rclone_server", "postgresql+s3"},
    "simulated": {"simulated"},
    "diffusers": {"diffusers"},
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Each test process imports all that the tests import before the first of them runs."""
    with none_collected():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    options = ("--databases", "--stores", "--backends")
    chosen = {name for option in options for name in config.getoption(option).split(",")}
    if unknown := chosen - _NEEDS.keys():
        raise pytest.UsageError(f"{', '.join(options)}: unknown: {', '.join(sorted(unknown))}")
    unwanted = set().union(*(words for name, words in _NEEDS.items() if name not in chosen))
    dropped = [item for item in items if _words(item) & unwanted]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    kept = set(items) - set(dropped)
    items[:] = durations.longest_first([item for item in items if item in kept])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make what most contract tests need before this process is forked: each copy would make it once more."""
    contracts = any(item.nodeid.startswith("tests/contract/") for item in session.items)
    if session.config.getoption("--split", 0) and contracts:
        from tests.shared_routes import make_shared_routes  # imports FastAPI

        tables_as_bytes()
        make_shared_routes(document=True)


def _words(item: pytest.Item) -> set[str]:
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    return {*getattr(item, "fixturenames", ()), *(one for one in parameters if isinstance(one, str))}


# -- servers of the whole run ----------------------------------------------------------------------------------

SharedServer = Callable[[Name], str]
_KEEPER = pytest.StashKey[ServerKeeper]()


def pytest_configure(config: pytest.Config) -> None:
    # Threads of one small picture that wait for each other's turn on a busy processor take many times longer, and two
    # farms are to draw the same bits: a worker that may choose their number goes by its pace.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    examples.choose(few=config.getoption("--few-examples"))
    config.stash[_KEEPER] = ServerKeeper()
    if config.getoption("--split", 0):
        config.stash[_KEEPER].invite()
    file = config.getoption("--durations-to")
    if file and not hasattr(config, "workerinput"):
        processes = config.getoption("numprocesses", None) or config.getoption("--split", 0) or 1
        config.pluginmanager.register(durations.Recorder(Path(file), processes=processes))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by xdist, in the process that hands out the tests, before each process that runs them starts."""
    node.workerinput["servers"] = asdict(node.config.stash[_KEEPER].invite())


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_KEEPER].close()


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest) -> SharedServer:
    """The address of a server that all test processes share, by its name."""
    handed = getattr(request.config, "workerinput", {}).get("servers")
    return Invitation(**handed).address if handed else request.config.stash[_KEEPER].address


@pytest.fixture(scope="session")
def starter(shared_server: SharedServer) -> Starter:
    """Starts processes of the farm in a fraction of the time that a fresh Python takes."""
    return Starter(shared_server)


# -- surroundings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the session's last test if a process that it started, child or daemon, still runs after all fixtures."""
    session = secrets.token_hex(8)
    os.environ[servers.MARK] = session
    yield
    del os.environ[servers.MARK]
    # Without other test processes the shared servers are this one's own; whatever used them has ended by now.
    request.config.stash[_KEEPER].close()
    _, alive = psutil.wait_procs(servers.left_behind(session), timeout=30)
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


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Each client of HTTP reads all of the machine's certificates, which takes longer than most of its requests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def services_are_described_once() -> Iterator[None]:
    """Each client of a store reads what boto3 knows of AWS, which takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.session, "create_loader", service_models.create_shared_loader)
        yield


@pytest.fixture(scope="session", autouse=True)
def statements_are_compiled_once() -> Iterator[None]:
    """Compiling its statements takes a third of a short test's time; a process of the farm has one engine for all."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connection, "create_engine", create_sharing_engine)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_flushed() -> Iterator[None]:
    """Whoever waits for the disk after each transaction and object waits longer than for all else of a short test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", unflushed.flush_nothing)
        patched.setattr(connection, "_prepare_sqlite", unflushed.prepare_sqlite_unflushed)
        yield


# -- databases -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server(shared_server: SharedServer) -> Iterator[PostgresServer]:
    with closing(PostgresServer(shared_server("postgresql"))) as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with tables and no rows, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    file.write_bytes(tables_as_bytes())
    return file


@pytest.fixture(scope="session")
def pgbouncer(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[int | None]:
    """The port of a PgBouncer in transaction mode; None unless it was asked for."""
    if not request.config.getoption("--pgbouncer"):
        yield None
        return
    with poolers.pgbouncer(postgres_server.socket) as port:
        yield port


@pytest.fixture
def postgres(postgres_server: PostgresServer, pgbouncer: int | None) -> Iterator[str]:
    """The address of a PostgreSQL database with tables and no rows; with `--pgbouncer`, through that."""
    name = postgres_server.create(template=POSTGRES_TEMPLATE)
    url = postgres_server.url(name)
    yield url if pgbouncer is None else postgres_server.tcp_url(url, pgbouncer)
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
def moto_server(shared_server: SharedServer) -> Iterator[S3Server]:
    with closing(S3Server(shared_server("moto"))) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(shared_server: SharedServer) -> Iterator[S3Server]:
    with closing(S3Server(shared_server("rclone"))) as server:
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
