"""A process that has imported the farm and becomes any of its processes by forking: `python -m tests.fork_server`.

A fresh Python imports for one to ten seconds before it is a worker, and the tests start hundreds. What is forked is a
process like any other, to be killed, frozen and asked to stop: with its own pid, command line, environment, standard
streams, signals as at a program's start, and no file or thread of the process that it was. What it starts itself is
forked likewise, if it is a Python of the farm. `tests/forks.py` sends the orders.
"""

import _posixsubprocess
import atexit
import ctypes
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import billiard.util
import PIL.Image

from scheduler.cli.main import COMMANDS
from tests.forks import ForkedProcess
from tests.garbage import none_collected
from tests.service_models import read_for_all
from tests.shared_routes import serve_shared_routes
from tests.sqlite_tables import know_tables_by_heart
from tests.unflushed import wait_for_no_disk

#: What commands and processes import only where they need it, and what libraries import when they are first called.
_PARTS = (
    *("alembic.command", "boto3", "celery.app.trace", "celery.concurrency.prefork", "celery.worker.consumer"),
    *("fastapi", "kombu.transport.redis", "rich.progress", "sqlalchemy.dialects.postgresql", "uvicorn"),
    *("billiard.popen_spawn_posix", "billiard.semaphore_tracker", "celery.bin.worker", "celery.fixups.django"),
    *("scheduler.api.app", "scheduler.api.context", "scheduler.local.doctor"),
    *("worker.process.parent", "worker.process.device_process", "worker.process.supervisor", "worker.process.tasks"),
    *("worker.process.queue_order", "storage.broker.redis_counts", "storage.database.partial_indexes"),
    *("celery.app.amqp", "celery.app.control", "celery.app.events", "celery.app.log", "celery.apps.worker"),
    *("celery.backends.base", "celery.bin.celery", "celery.loaders.app", "celery.worker.autoscale"),
    *("celery.worker.components", "celery.worker.consumer.delayed_delivery", "celery.worker.strategy"),
    *("billiard.sharedctypes", "alembic.config", "encodings.idna", "encodings.unicode_escape"),
    *("importlib.resources.readers", "anyio._backends._asyncio", "anyio.abc", "uvicorn.lifespan.on"),
    *(
        "uvicorn.loops.asyncio",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
    ),
)
_TORCH = (
    *("worker.rendering.diffusers_backend", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"),
    *("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl", "transformers.models.clip"),
    *("transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip"),
)
#: What `farm models pull` imports. No more: a worker's backend forbids progress bars.
_PULL = ("diffusers.pipelines.pipeline_utils", "huggingface_hub.repocard", "transformers")
_OF_KIND = {"light": (), "torch": _TORCH, "pull": _PULL}
#: Read when Python starts or a library is imported (then: which): a process for which these are different has to import
#: for itself what was imported before.
_READ_ON_IMPORT = {
    **dict.fromkeys(("LD_", "PYTHON"), "sys"),
    "HF_": "huggingface_hub",
    "TORCH": "torch",
    "TRANSFORMERS_": "transformers",
    "DIFFUSERS_": "diffusers",
}
#: Named alike, and read with each request.
_READ_LATER = "HF_TOKEN"
#: Room for the command lines and environments of those who are forked, which take the place of this process's own.
ROOM = {"arguments": "-" * 512, "environment": "-" * 32_768}

_really_fork_exec: Callable[..., int] = _posixsubprocess.fork_exec


# -- becoming another process ----------------------------------------------------------------------------------


def become(command: Sequence[str], environment: Mapping[str, str], folder: str | None) -> NoReturn:
    """In a fork: be `python -m module …`, `python -c program …` or `farm …`, to its end."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    if folder is not None:
        os.chdir(folder)
    _show(command, environment)
    _forget_what_was()
    code: object = 1
    try:
        _run(command)
        code = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120
    os._exit(int(str(code)))


def _run(command: Sequence[str]) -> None:
    program, *words = command
    if Path(program).name == "farm":
        from diffusion_farm.commands import farm

        sys.argv = [program, *words]
        sys.modules["__main__"] = ModuleType("__main__")
        farm()
    elif "-m" in words:
        _, module, *arguments = words[words.index("-m") :]
        sys.argv = [module, *arguments]
        # A process does not have the module that it runs twice.
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        _, text, *arguments = words[words.index("-c") :]
        sys.argv = ["-c", *arguments]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(text, "<string>", "exec"), vars(main))


def _show(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Have the system list this process with its command line and environment (proc(5), `arg_start` and after)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    starts = {"arguments": map(int, fields[45:47]), "environment": map(int, fields[47:49])}
    words = {"arguments": command, "environment": [f"{name}={value}" for name, value in environment.items()]}
    for what, (start, end) in starts.items():
        text = b"".join(os.fsencode(word) + b"\0" for word in words[what])
        # The last byte stays zero: another one there would mean that the command line goes on behind it.
        ctypes.memmove(start, text[: end - start - 1].ljust(end - start, b"\0"), end - start)


def _forget_what_was() -> None:
    """Leave nothing of the process that this one was but its modules."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGPIPE}:
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for good
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    _forked_elsewhere.clear()
    atexit._clear()
    atexit.register(logging.shutdown)
    threading.excepthook = threading.__excepthook__
    logging.captureWarnings(False)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    billiard.set_start_method(None, force=True)
    billiard.util._finalizer_registry.clear()


def _take_streams(streams: Sequence[int], kept: Iterable[int]) -> None:
    """Make these files (-1: the same as before) standard input, output and error, and let go of all but those kept.

    What is let go of leads nowhere from now on, but its number stays taken: an object of the former process that
    closes it, whenever that is collected, must not close something else.
    """
    copies = [os.dup(stream if stream >= 0 else number) for number, stream in enumerate(streams)]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
        os.close(copy)
    nowhere = os.open(os.devnull, os.O_RDWR)
    kept = {0, 1, 2, nowhere, *kept}
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number not in kept and os.path.exists(f"/proc/self/fd/{name}"):
            os.dup2(nowhere, number, inheritable=False)


# -- what a forked process starts ------------------------------------------------------------------------------


def _fork_exec(*arguments: Any) -> int:
    """Take the place of `_posixsubprocess.fork_exec`: fork for a Python of ours, and start any other program."""
    command = [os.fsdecode(word) for word in arguments[0]]
    kept, folder, given = arguments[3:6]
    environment = dict(os.environ)
    if given is not None:
        environment = dict(os.fsdecode(entry).split("=", 1) for entry in given)
    is_python = command[0] == sys.executable and {"-m", "-c"} & {*command}
    if not is_python or _read_on_import(environment) != _read_on_import(_at_start):
        return _really_fork_exec(*arguments)
    if _holds_sqlite():
        return _have_forked(command, environment, arguments)
    # What is buffered would be written twice.
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    try:
        ours, new_session = arguments[13], arguments[15]
        _take_streams([arguments[6], arguments[9], arguments[11]], {*kept} - {ours})
        if new_session:
            os.setsid()
        become(command, environment, folder and os.fsdecode(folder))
    finally:
        os._exit(255)


def _holds_sqlite() -> bool:
    """Whether an SQLite database is open here: the library knows its open files, and must not live on in a fork."""
    links = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    # Of one that has just been closed, such as the listing itself, the path leads to itself.
    return any(os.path.realpath(link).endswith((".db", ".db-wal")) for link in links)


def _read_on_import(environment: Mapping[str, str]) -> dict[str, str]:
    """What has been read by now of an environment."""
    read = tuple(start for start, module in _READ_ON_IMPORT.items() if module in sys.modules)
    found = {name: value for name, value in environment.items() if name.startswith(read) and name != _READ_LATER}
    # Folders in which modules are looked for anyway, the farm's own first, change nothing.
    if {*found.get("PYTHONPATH", "").split(os.pathsep)} <= {"", *sys.path}:
        found.pop("PYTHONPATH", None)
    return found


_at_start = dict(os.environ)


# -- what a forked process has started by the server -----------------------------------------------------------


#: The server's address in `main`, and in all that are forked from it.
_address = ""
#: Those that are no child of this process but of the server's, by their pids.
_forked_elsewhere: dict[int, ForkedProcess] = {}
_really_poll = subprocess.Popen._internal_poll  # type: ignore[attr-defined]
_really_wait = subprocess.Popen._wait  # type: ignore[attr-defined]


def _have_forked(command: Sequence[str], environment: Mapping[str, str], arguments: Sequence[Any]) -> int:
    """Have the server fork in place of this process, of which something must not live on in a fork."""
    kept, folder, ours, new_session = {*arguments[3]}, arguments[4], arguments[13], arguments[15]
    if kept - {ours}:
        return _really_fork_exec(*arguments)
    streams = [stream if stream >= 0 else n for n, stream in enumerate((arguments[6], arguments[9], arguments[11]))]
    process = ForkedProcess(
        _address,
        command,
        env=environment,
        streams=streams,
        cwd=Path(os.fsdecode(folder)) if folder else None,
        new_session=bool(new_session),
    )
    _forked_elsewhere[process.pid] = process
    return process.pid


def _poll(process: Any, *arguments: Any, **named: Any) -> int | None:
    """Take the place of `subprocess.Popen._internal_poll`, which asks the system for a child."""
    if forked := _forked_elsewhere.get(process.pid):
        process.returncode = forked.poll()
    else:
        _really_poll(process, *arguments, **named)
    return process.returncode  # type: ignore[no-any-return]


def _wait(process: Any, timeout: float | None) -> int:
    """Take the place of `subprocess.Popen._wait`, likewise."""
    if forked := _forked_elsewhere.get(process.pid):
        process.returncode = forked.wait(timeout)
    else:
        _really_wait(process, timeout)
    return process.returncode  # type: ignore[no-any-return]


# -- orders ----------------------------------------------------------------------------------------------------


def _serve(listener: socket.socket) -> NoReturn:
    """Start what is ordered, and tell how it ended, in one process: a fork to wait in takes as long as a start."""
    ordering: dict[int, socket.socket] = {}
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == listener.fileno():
                connection, _ = listener.accept()
                # Whoever was frozen before its order has come keeps nobody waiting.
                ordering[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
                continue
            poll.unregister(ready)
            if ready in running:
                os.close(ready)
                _tell_end(*running.pop(ready))
            elif pid := _started(connection := ordering.pop(ready)):
                ended = os.pidfd_open(pid)
                running[ended] = pid, connection
                poll.register(ended, select.POLLIN)


def _started(connection: socket.socket) -> int:
    """Start what is ordered, tell its pid, and return that; 0 if nobody is there any more who ordered something."""
    data, streams, _, _ = socket.recv_fds(connection, 2**18, 3)
    if not data:
        connection.close()
        return 0
    wanted = json.loads(data)
    child = os.fork()
    if not child:
        _take_streams(streams, ())
        if wanted["new_session"]:
            os.setsid()
        become(wanted["command"], wanted["environment"], wanted["folder"])
    for stream in streams:
        os.close(stream)
    with suppress(OSError):  # nobody waits for it any more
        connection.send(str(child).encode())
    return child


def _tell_end(pid: int, connection: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    with connection, suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    global _address
    _address, kind = sys.argv[1:3]
    # Else each fork copies the memory page by page as its collector looks through it.
    with none_collected():
        for command in COMMANDS.values():
            command.load()
        for name in (*_PARTS, *_OF_KIND[kind]):
            import_module(name)
        wait_for_no_disk()
        read_for_all()
        know_tables_by_heart()
        serve_shared_routes()
        PIL.Image.init()
    _posixsubprocess.fork_exec = _fork_exec
    subprocess._fork_exec = _fork_exec  # type: ignore[attr-defined]
    subprocess.Popen._internal_poll = _poll  # type: ignore[attr-defined]
    subprocess.Popen._wait = _wait  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(_address)
        listener.listen(64)
        _serve(listener)


if __name__ == "__main__":
    main()
