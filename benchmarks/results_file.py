"""Results of a run as a file, `benchmarks/results/DATE-COMMIT.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Raised with every change after which two files can no longer be compared.
SCHEMA = 1
FOLDER = Path(__file__).parent / "results"


class UnreadableResults(Exception):
    """A file is no results file, or one of another schema version; the text says which."""


def write(results: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write the results of a run under its date and commit, and return the file; overwrites none."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{results['started'][:10]}-{(results['commit'] or 'unknown')[:9]}"
    file = next(path for number in range(1, 1000) if not (path := folder / f"{name}{_nth(number)}.json").exists())
    file.write_text(json.dumps(results, indent=1) + "\n")
    return file


def read(file: Path) -> dict[str, Any]:
    """Return the results of a run. Raises UnreadableResults."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableResults(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise UnreadableResults(f"{file}: no results of these benchmarks: it has no schema version")
    if found["schema"] != SCHEMA:
        raise UnreadableResults(
            f"{file}: results of schema version {found['schema']}; this program reads version {SCHEMA}. "
            "Compare with a program of that commit, or run the benchmarks again."
        )
    return found


def find(named: str, folder: Path = FOLDER) -> Path:
    """Return the file that is meant by a path or by the beginning of a commit: its newest. Raises UnreadableResults."""
    if (path := Path(named)).is_file():
        return path
    files = [file for file in folder.glob("*.json") if file.stem[11:].startswith(named[:9]) and named]
    if not files:
        raise UnreadableResults(f"{named}: neither a file nor a commit with results in {folder}")
    return max(files, key=_age)


def _age(file: Path) -> tuple[str, int]:
    """The date, and which run of that date and commit it is."""
    number = file.stem[11:].partition("-")[2]
    return file.stem[:10], int(number) if number.isdecimal() else 1


def _nth(number: int) -> str:
    return "" if number == 1 else f"-{number}"
