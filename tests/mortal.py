"""Redis and PostgreSQL that can be killed, frozen and started again at the same address."""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import redis

from tests import servers
from tests.servers import PostgresServer, eventually


class MortalRedis:
    """Valkey without persistence: what it held is gone when it is killed."""

    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        self._folder = folder
        self._running = ExitStack()
        self.url = self.start()

    def start(self, **settings: str) -> str:
        """With `password=…` as another one than before."""
        url = self._running.enter_context(servers.redis_server(self._folder, port=self.port, **settings))
        self.client = self._running.enter_context(redis.Redis.from_url(url, socket_timeout=20))
        self._pid = int(self.client.info("server")["process_id"])
        return url

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self.close()

    def freeze(self) -> None:
        servers.stop(self._pid)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        self._running.close()


class MortalPostgres:
    """One database of a PostgreSQL server, and the server's life."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self.url = server.url(server.create())
        self._log = folder / "postgresql.log"
        self._address = self.url.replace("+psycopg", "")
        with self._connect() as connection:
            # Else a crash loses what was committed in its last moments: the tests' server does without.
            connection.execute("ALTER SYSTEM SET synchronous_commit = 'on'")
            connection.execute("SELECT pg_reload_conf()")
            [folder_of_data] = connection.execute("SHOW data_directory").fetchone() or ()
        self._data = str(folder_of_data)
        # Taken from the running server, so that it is started again just as it was, and as the same user.
        postmaster = self._postmaster()
        self._command, self._user = postmaster.cmdline(), postmaster.uids().real
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = server.socket

    def tcp_url(self, port: int) -> str:
        """The database's address through a port of this machine that leads to the socket."""
        return self._server.tcp_url(self.url, port)

    def terminate_backends(self) -> int:
        """Close every connection to the database; how many."""
        with self._connect() as connection:
            return connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            ).rowcount

    def crash(self) -> None:
        """End at once, without a checkpoint (`pg_ctl stop -m immediate` sends the same signal)."""
        postmaster = self._postmaster()
        postmaster.send_signal(signal.SIGQUIT)
        if self._process is not None:
            self._process.wait(60)
        eventually(lambda: not _alive(postmaster), "PostgreSQL has ended")

    def start(self) -> None:
        """Start again, with recovery; returns when it takes connections."""
        eventually(self._answers_or_starts, "PostgreSQL answers")

    def close(self) -> None:
        """End a server that was started here; the first one is its package's to end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)

    def _answers_or_starts(self) -> bool:
        # It does not start while memory of its predecessor is in use: then it is tried again.
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    user=self._user,
                    cwd="/",
                    # It is no part of the farm, and is not to be taken for one.
                    env={name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "AWS_"))},
                )
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._address, autocommit=True, connect_timeout=30)

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int((Path(self._data) / "postmaster.pid").read_text().split()[0]))


def _alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
