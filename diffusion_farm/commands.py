"""The commands `farm` and `farm-worker`. Every install has them; the client's says what to install for them."""

import gc
import os
import sys
from collections.abc import Callable

_OURS = ("diffusion_farm", "scheduler", "storage", "worker")
_WRONG_USAGE = 2
#: Imports make tens of thousands of objects that all stay: with Python's 700, looking through them again and again for
#: garbage takes a tenth of a command's start.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def farm() -> None:
    _run("farm", _farm, extra="scheduler")


def farm_worker() -> None:
    _run("farm-worker", _farm_worker, extra="worker")


def _farm() -> None:
    from scheduler.cli.main import main

    main()


def _farm_worker() -> None:
    from worker.process.supervisor import main

    main()


def _run(program: str, command: Callable[[], None], *, extra: str) -> None:
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # Looking for some among all installed packages takes pydantic 30 of a command's 500 ms, and the farm has none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        command()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OURS:
            raise  # a fault of ours: nothing that could be installed would help
        sys.stderr.write(
            f'{program}: the package {package} is not installed; run `pip install "diffusion-farm[{extra}]"`\n'
        )
        sys.exit(_WRONG_USAGE)
