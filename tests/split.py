"""Collects the tests once, forks, and has each process run files of tests, or parts of long ones, until none is left.

`pytest -p tests.split --split 2`

xdist's processes each import and collect everything by themselves, and the one that hears of each test hears three
times of it: a seventh of the processor time of `make quick` (2026-11-29).
"""

import json
import os
import select
import signal
import struct
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pytest

from tests.durations import divided

_NUMBER = struct.Struct("I")
#: A pipe holds as much on every system.
_PIPE_BYTES = 4096
_LOOK_SECONDS = 0.1
#: What went well before and after a test is told of if it took longer (tests/durations.py adds it up).
_SHORT_SECONDS = 0.05


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--split", type=int, default=0, metavar="N", help="Runs the tests in so many forked processes.")


def pytest_configure(config: pytest.Config) -> None:
    if processes := config.getoption("--split"):
        config.pluginmanager.register(Split(processes))


class Split:
    """A plugin that replaces pytest's loop over the tests: others run them, and this process says what becomes of them.

    It runs none itself, for what belongs to all of them has to last until the last of them has ended.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> object:
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest's own loop says what is to be said
        files = divided(session.items)
        assert sum(map(len, files)) == len(session.items), "some of the tests that were collected would not be run"
        waiting = _numbers(len(files))
        # Made by this process, which removes it in the end.
        folder: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        children = []
        for number in range(self._processes):
            (own := folder / f"split-{number}").mkdir()
            children.append(_forked(session, files, waiting, own))
        try:
            _hear(session, children)
        finally:
            # Where this is interrupted, or was told to stop, nobody begins another file.
            for _ in _taken(waiting):
                pass
            ends = [child.wait(session.config) for child in children]
            os.close(waiting)
        session.shouldfail = next(filter(None, ends), session.shouldfail)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        return True


def _numbers(count: int) -> int:
    """Return what gives each number below `count` to one of the processes that read from it."""
    assert count * _NUMBER.size <= _PIPE_BYTES, "more files of tests than numbers that fit into a pipe"
    reading, writing = os.pipe()
    os.write(writing, b"".join(map(_NUMBER.pack, range(count))))
    os.close(writing)
    return reading


def _taken(waiting: int) -> Iterator[int]:
    while taken := os.read(waiting, _NUMBER.size):
        yield _NUMBER.unpack(taken)[0]


# -- in the process that says what becomes of the tests --------------------------------------------------------


@dataclass(kw_only=True)
class Child:
    """A process that runs tests: where it writes what is to be said of them, and a pipe that it holds open."""

    pid: int
    said: BinaryIO
    alive: int
    #: The test that it began last.
    at: str = "none"

    def hear(self, config: pytest.Config) -> None:
        """Say what it has written down since the last time."""
        while (line := self.said.readline()).endswith(b"\n"):
            told = json.loads(line)
            if "begins" in told:
                self.at = told["begins"]
            else:
                if isinstance(told["longrepr"], list):
                    # Where a test was skipped, and why: JSON knows lists alone.
                    told["longrepr"] = tuple(told["longrepr"])
                report = config.hook.pytest_report_from_serializable(config=config, data=told)
                config.hook.pytest_runtest_logreport(report=report)
        # What is not whole is read the next time.
        self.said.seek(-len(line), os.SEEK_CUR)

    def wait(self, config: pytest.Config) -> str | None:
        """Hear it to its end; what is to be said of that, if it was no good one."""
        _, status = os.waitpid(self.pid, 0)
        self.hear(config)
        os.close(self.alive)
        self.said.close()
        if status == 0:
            return None
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        return f"a process of tests has ended with {how}; the last test that it began was {self.at}"


def _hear(session: pytest.Session, children: Sequence[Child]) -> None:
    """Say what the children write down until all have ended, or no more tests are to be run."""
    running = {child.alive for child in children}
    while running and not session.shouldfail:
        # Nothing comes through these pipes but their end.
        running.difference_update(select.select(running, [], [], _LOOK_SECONDS)[0])
        for child in children:
            child.hear(session.config)


# -- in a process that was forked ------------------------------------------------------------------------------


class _Teller:
    """A plugin that writes down what is to be said of each test, one line of JSON after another."""

    def __init__(self, config: pytest.Config, said: BinaryIO) -> None:
        self._config = config
        self._said = said

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell({"begins": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed:
            if report.when != "call" and report.duration < _SHORT_SECONDS:
                return
            report.sections = []
        self._tell(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def _tell(self, what: Any) -> None:
        self._said.write(json.dumps(what, default=str).encode() + b"\n")
        self._said.flush()


def _forked(session: pytest.Session, files: Sequence[Sequence[pytest.Item]], waiting: int, folder: Path) -> Child:
    # A file and no pipe: nobody waits until what they say is heard.
    place = folder / "said"
    said = place.open("wb")
    reading = place.open("rb")
    alive, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        _become(session, files, waiting, folder, said)
    os.close(held)
    said.close()
    return Child(pid=pid, said=reading, alive=alive)


def _become(
    session: pytest.Session, files: Sequence[Sequence[pytest.Item]], waiting: int, folder: Path, said: BinaryIO
) -> NoReturn:
    """Run tests in this process, a copy of the one that has collected them, and end it."""
    status = 1
    config = session.config
    plugins = config.pluginmanager
    # What tests print is kept in a file, in which all copies of this process would have one place.
    capturing: Any = plugins.getplugin("capturemanager")
    try:
        capturing.stop_global_capturing()
        capturing.start_global_capturing()
        plugins.unregister(name="terminalreporter")
        plugins.register(_Teller(config, said))
        config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
        try:
            _run(session, files, waiting)
        except session.Failed:
            pass  # of its tests, which are told of
        finally:
            session._setupstate.teardown_exact(None)
        # Looks for what was never closed.
        config.hook.pytest_unconfigure(config=config)
        status = 0
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - this process ends here, whatever was raised
        capturing.stop_global_capturing()
        traceback.print_exc()
    finally:
        os._exit(status)


def _run(session: pytest.Session, files: Sequence[Sequence[pytest.Item]], waiting: int) -> None:
    """Run one file after another, as long as there is somebody who says what becomes of them."""
    parent = os.getppid()
    # A file is taken before the last test of the one before it, which needs to know what of its fixtures is used again.
    mine = chain.from_iterable(files[number] for number in _taken(waiting))
    for test, following in pairwise(chain(mine, [None])):
        assert test is not None
        if os.getppid() != parent:
            raise session.Failed("the process that has collected the tests has ended")
        session.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
