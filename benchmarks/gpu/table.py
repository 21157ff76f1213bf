"""A run's results as text: what was measured, what was not and why, and the targets."""

from collections.abc import Mapping, Sequence
from typing import Any

#: What identifies a row, in this order; the rest are figures.
_LABELS = ("model", "what", "how", "mode", "dtype", "batch", "rows", "steps")
_WHY = ("failed", "skipped")


def table(results: Mapping[str, Any]) -> str:
    """Return the whole text, each line with its end."""
    on, commit = results["device"], (results["commit"] or "unknown")[:9]
    versions = {name: found for name, found in results["versions"].items() if found}
    lines = [
        "",
        f"{on.get('name', 'no device')}, driver {on.get('driver')}, CUDA {on.get('cuda')}; commit {commit}"
        + (" with changes" if results["dirty"] else ""),
        ", ".join(f"{name} {found}" for name, found in versions.items()),
        *(["tiny models: the figures mean nothing"] if results["tiny"] else []),
    ]
    for kind in dict.fromkeys(row["part"] for row in results["rows"]):
        lines += ["", f"{kind}", *_rows([row for row in results["rows"] if row["part"] == kind])]
    lines += ["", "targets", *map(_target, results["targets"])]
    spent = {part["name"]: part for part in results["parts"]}
    told = ", ".join(f"{name} {part['seconds']:.0f} s ({part['outcome']})" for name, part in spent.items())
    lines += ["", f"{results['seconds']:.0f} s of {60 * results['minutes']:.0f} s: {told}", ""]
    return "\n".join(lines)


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        labels = " ".join(_label(name, row[name]) for name in _LABELS if row.get(name) is not None)
        why = next((f"{word}: {row[word]}" for word in _WHY if word in row), None)
        figures = {name: value for name, value in row.items() if name not in ("part", *_LABELS, *_WHY)}
        shown = ", ".join(f"{name} {_number(value)}" for name, value in figures.items() if value is not None)
        lines.append(f"  {labels:58} {why or shown}")
    return lines


def _label(name: str, value: object) -> str:
    return f"{name} {value}" if name in ("batch", "rows", "steps") else str(value)


def _target(target: Mapping[str, Any]) -> str:
    return f"  {target['verdict']:12} {target['what']:66} {_number(target['value'], 4):>9} ({target['bound']})"


def _number(value: object, digits: int = 3) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"{_number(value['median'])} ({_number(value['min'])} … {_number(value['max'])})"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"
    return "–" if value is None else str(value)
