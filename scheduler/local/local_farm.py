"""A whole farm on this machine: broker, scheduler process and workers, below FARM_HOME.

`farm up` runs one until Ctrl-C. `farm render` with no address set uses the one that runs, or starts one that lasts as
long as somebody uses it. Who uses it holds a shared lock on `run/users.lock`; the farm ends when it gets that lock
for itself. The system lets go of a lock when its process ends, however it ends, so no farm is left behind.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from scheduler.local import redis_server
from scheduler.local.home import Home, RunningFarm
from storage.broker.tickets import Tickets
from storage.database import schema
from storage.database.connection import Database
from storage.errors import BrokerProblem, InvalidInput, ServiceProblem
from storage.process.keeper import Keeper
from storage.settings import Settings

_POLL_SECONDS = 0.25
_BROKER_SECONDS = 15.0
#: Far longer than a glance at a lock takes, on a busy machine too.
_LOCK_SECONDS = 1.0
_START_SECONDS = 60.0


# -- using a farm ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def use(settings: Settings, *, say: Callable[[str], None]) -> Iterator[str]:
    """Yield the broker address of a farm on this machine, started if none is running, stopped after its last user.

    Raises ServiceProblem with the reason if it does not start.
    """
    home = Home(settings)
    home.make(settings)
    with home.locked("users.lock", fcntl.LOCK_SH):
        with home.locked("start.lock", fcntl.LOCK_EX):
            farm = _settled(home, settings) or _start(home, settings, say)
        yield farm.broker_url
    if farm.until_unused:
        _wait_for_the_end(home, farm)


def _settled(home: Home, settings: Settings) -> RunningFarm | None:
    """The farm that runs here, once one that is just starting has started; None once one that ends has ended."""
    deadline = time.monotonic() + settings.grace_seconds + _START_SECONDS
    while not (farm := home.running()) and not home.free("farm.lock", fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise ServiceProblem(f"the farm in {settings.home} neither starts nor stops: {home.last_words()}")
        time.sleep(_POLL_SECONDS / 5)
    return farm


def _start(home: Home, settings: Settings, say: Callable[[str], None]) -> RunningFarm:
    redis_server.require()
    say("starting a farm on this machine …")
    with (home.logs / "farm.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli.main", "up", "--until-unused"],
            env=os.environ | {"FARM_HOME": str(settings.home.absolute())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A Ctrl-C at the terminal is for the command, which then lets go of the farm.
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if farm := home.running():
            return farm
        time.sleep(_POLL_SECONDS / 5)
    process.kill()
    raise ServiceProblem(f"the farm on this machine failed to start: {home.last_words()}")


def _wait_for_the_end(home: Home, farm: RunningFarm) -> None:
    """Return when the farm has ended, or when others use it. A Ctrl-C makes it end at once."""
    try:
        while not home.free("farm.lock", fcntl.LOCK_SH) and not _others_use(home):
            time.sleep(_POLL_SECONDS / 5)
    except KeyboardInterrupt:
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):
                os.kill(farm.pid, signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
        raise


def _others_use(home: Home) -> bool:
    # Neither free for one alone nor for sharing: the farm itself holds it, because it is ending.
    return not home.free("users.lock", fcntl.LOCK_EX) and home.free("users.lock", fcntl.LOCK_SH)


# -- being a farm ----------------------------------------------------------------------------------------------


class LocalFarm:
    """The process behind `farm up`: starts the parts, starts again what dies, stops them in order."""

    def __init__(self, settings: Settings, *, until_unused: bool, port: int | None = None) -> None:
        """Prepare a farm; with a `port`, it serves its API and its page there."""
        self._settings = settings
        self._port = port
        self._until_unused = until_unused
        self._home = Home(settings)
        self._stopping = threading.Event()
        self._stop_requests = 0

    def run(self, *, ready: Callable[[RunningFarm], None]) -> None:
        """Run until asked to stop (SIGTERM, Ctrl-C) or, with `until_unused`, until nobody uses it any more.

        Raises InvalidInput if a farm runs here already, ServiceProblem if a part cannot be started.
        """
        self._home.make(self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        with contextlib.ExitStack() as stack:
            self._be_the_only_one(stack)
            # What a farm that was killed here had told is no longer true.
            self._home.hush()
            stack.callback(self._home.hush)
            self._run_parts(ready)

    def _be_the_only_one(self, stack: contextlib.ExitStack) -> None:
        # Commands that only look whether a farm runs hold the lock for a moment: one try does not tell.
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                stack.enter_context(self._home.locked("farm.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InvalidInput(
                        f"a farm already runs in {self._settings.home}; use it, or set FARM_HOME to another folder"
                    ) from None
                time.sleep(0.01)
            else:
                return

    def _run_parts(self, ready: Callable[[RunningFarm], None]) -> None:
        self._prepare_database()
        with contextlib.ExitStack() as stack:
            broker, broker_url = self._start_broker(stack)
            environment = os.environ | {
                "FARM_HOME": str(self._settings.home.absolute()),
                "FARM_DATABASE_URL": self._settings.database,
                "FARM_BROKER_URL": broker_url,
                "FARM_OBJECTS_URL": self._settings.objects,
            }
            keep = partial(Keeper, environment=environment)
            parts = [
                keep("scheduler", [sys.executable, "-m", "scheduler.cli.main", "scheduler", "--stop-with-parent"]),
                keep("workers", [sys.executable, "-m", "worker.process.supervisor", "--stop-with-parent"]),
            ]
            if self._port is not None:
                serve = ["api", "--without-worker", "--port", str(self._port), "--stop-with-parent"]
                parts.append(keep("api", [sys.executable, "-m", "scheduler.cli.main", *serve]))
            stack.callback(self._stop, parts)
            farm = RunningFarm(pid=os.getpid(), broker_url=broker_url, until_unused=self._until_unused)
            for part in parts:
                part.start()
            self._home.tell(farm)
            ready(farm)
            while not self._stopping.wait(_POLL_SECONDS):
                for part in (*broker, *parts):
                    part.tend()
                if self._until_unused and self._take_unused(stack):
                    break

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_requests += 1
        self._stopping.set()

    def _prepare_database(self) -> None:
        database = Database(self._settings.database)
        try:
            schema.upgrade(database)
        finally:
            database.close()

    def _start_broker(self, stack: contextlib.ExitStack) -> tuple[list[Keeper], str]:
        """The broker's process, if it is ours, and its address."""
        if self._settings.broker_url is not None:
            return [], self._settings.broker_url
        redis_server.require()
        configuration, url = redis_server.configure(self._home.run)
        output = stack.enter_context((self._home.logs / "redis.log").open("ab"))
        broker = Keeper("broker", redis_server.command(configuration), output=output)
        stack.callback(broker.stop, seconds=5.0)
        broker.start()
        tickets = Tickets(self._settings.model_copy(update={"broker_url": url}))
        deadline = time.monotonic() + _BROKER_SECONDS
        while True:
            try:
                tickets.check()
                return [broker], url
            except BrokerProblem as error:
                if not broker.alive or time.monotonic() > deadline:
                    raise ServiceProblem(f"the embedded broker failed to start: {error}") from None
            time.sleep(_POLL_SECONDS / 5)

    def _take_unused(self, stack: contextlib.ExitStack) -> bool:
        """Return True if nobody uses the farm; from then on nobody can until it has stopped."""
        try:
            stack.enter_context(self._home.locked("users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _stop(self, parts: list[Keeper]) -> None:
        """Workers first, so that what they finish is still recorded. A second request is passed on."""
        self._home.hush()
        asked = 1
        for part in reversed(parts):
            part.ask_to_stop()
        while any(part.alive for part in parts):
            if self._stop_requests > asked:
                asked = self._stop_requests
                for part in reversed(parts):
                    part.ask_to_stop()
            time.sleep(_POLL_SECONDS / 5)
