"""Measures what one GPU does with the farm's models, in eight minutes: no network, no weights, whatever is installed.

python -m benchmarks.gpu                            on the first GPU
python -m benchmarks.gpu --parts "eager sdxl" farm  some of it: a part's name, or the first word of several
python -m benchmarks.gpu --list                     what there is, the most valuable first
python -m benchmarks.gpu --device cpu --tiny        tries the benchmark itself; the figures mean nothing

Results are kept as JSON after every row: what a run that was cut off had measured stands. Exit code 0: all parts ran,
but for what this machine lacks and what no time was left for; 1: a part failed, which its row explains, or the run was
stopped; 2: wrong arguments.
"""

import argparse
import contextlib
import fcntl
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.conductor import Conductor
from benchmarks.gpu.programme import PARTS, Part
from benchmarks.gpu.table import table
from benchmarks.gpu.targets import judged

#: Raised with every change after which two files can no longer be compared.
SCHEMA = "gpu-1"
#: How long a farm may take to end once nobody uses it.
_LAST_SECONDS = 15.0
_FOLDER = Path(__file__).resolve().parents[1] / "results" / "gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        for part in PARTS:
            _say(f"{part.name:40} {part.least:4.0f} to {part.most:4.0f} s {part.missing() or ''}".rstrip())
        return 0
    unknown = [name for name in options.parts if not any(_is_meant(part, name) for part in PARTS)]
    if unknown:
        _say(f"no part named {', '.join(unknown)}; --list names them")
        return 2
    chosen = [part for part in PARTS if not options.parts or any(_is_meant(part, name) for name in options.parts)]
    header = _header(options)
    file = options.out or _named(header)
    file.parent.mkdir(parents=True, exist_ok=True)
    # As Ctrl-C: what was measured is told, what was started is ended.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = _measured(chosen, options, header, file)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.stdout.write(table(results))
    _say(f"written: {file}")
    return 1 if any(part["outcome"] in ("failed", "stopped") for part in results["parts"]) else 0


def _measured(
    chosen: Sequence[Part], options: argparse.Namespace, header: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    begun = time.monotonic()

    def results() -> dict[str, Any]:
        return {
            **header,
            "device": conductor.on,
            "seconds": round(time.monotonic() - begun, 1),
            "parts": conductor.parts,
            "targets": judged(conductor.rows),
            "rows": conductor.rows,
        }

    def save() -> None:
        unfinished = file.with_name(f".{file.name}.new")
        unfinished.write_text(json.dumps(results(), indent=1) + "\n")
        unfinished.replace(file)

    with _scratch() as folder:
        conductor = Conductor(
            device=options.device,
            tiny=options.tiny,
            seconds=60 * options.minutes,
            folder=folder,
            save=save,
            say=_say,
        )
        try:
            conductor.run(chosen)
        except KeyboardInterrupt:
            _say("stopped; what was measured until now:")
            conductor.parts.append({"name": "the rest", "outcome": "stopped", "seconds": 0.0})
        save()
    return results()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder for what parts write; it goes in the end, when nobody writes there any more."""
    with tempfile.TemporaryDirectory(prefix="farm-gpu-", ignore_cleanup_errors=True) as name:
        yield Path(name)
        # A farm whose user was ended by force ends by itself, soon. It holds this lock from its start until then.
        lock, deadline = Path(name) / "home/run/farm.lock", time.monotonic() + _LAST_SECONDS
        while lock.parent.exists() and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)


def _header(options: argparse.Namespace) -> dict[str, Any]:
    header: dict[str, Any] = {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "tiny": options.tiny,
        "minutes": options.minutes,
        "note": options.note,
    }
    try:
        from benchmarks.machine import commit, is_dirty, machine, versions  # they need psutil
    except ImportError as error:
        return header | {"commit": None, "dirty": None, "versions": {}, "machine": {"unknown": str(error)}}
    return header | {"commit": commit(), "dirty": is_dirty(), "versions": versions(), "machine": machine()}


def _named(header: Mapping[str, Any]) -> Path:
    """Return a file of the results' folder that does not exist: date and commit."""
    name = f"{header['started'][:10]}-gpu-{(header['commit'] or 'unknown')[:9]}"
    names = (f"{name}{'' if number == 1 else f'-{number}'}.json" for number in range(1, 1000))
    return next(file for file in (_FOLDER / one for one in names) if not file.exists())


def _is_meant(part: Part, name: str) -> bool:
    return name in (part.name, part.kind)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few rounds: the figures mean nothing")
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=[], metavar="NAME", help="these only, in the order of --list")
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    parser.add_argument("--note", default="", help="a remark that is kept with the results")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/gpu/DATE-gpu-COMMIT.json")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 600:
        raise argparse.ArgumentTypeError(f"{text} is no number of minutes between 0 and 600")
    return minutes


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
