"""What a dataset says of each picture: a table with the same columns in every shard of a render."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage.renders.batch_views import BatchView
from storage.renders.views import JobView
from storage.rules.states import State
from storage.spec.controls import Controls

Kind = Literal["text", "whole", "fraction", "truth"]

#: Our own columns: name → kind.
COLUMNS: Mapping[str, Kind] = {
    "key": "text",
    "job": "text",
    "index": "whole",
    "custom_id": "text",
    "status": "text",
    "error": "text",
    "prompt": "text",
    "negative_prompt": "text",
    "seed": "whole",
    "model": "text",
    "weights": "text",
    "sampler": "text",
    "num_inference_steps": "whole",
    "guidance_scale": "fraction",
    "width": "whole",
    "height": "whole",
    # As JSON: what else the picture was made with, and the software and device that made it.
    "controls": "text",
    "made_with": "text",
    "started_at": "fraction",
    "finished_at": "fraction",
    "render_seconds": "fraction",
    "batch_size": "whole",
    "batch_position": "whole",
    "sha256": "text",
    "pixels_sha256": "text",
    "remarks": "text",
    "bytes": "whole",
}

#: What Python's types are as columns.
_KINDS: Mapping[type, Kind] = {bool: "truth", int: "whole", float: "fraction", str: "text"}
#: Text that Arrow's reader of JSON takes for a time, if all that it reads of a column is such.
_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([ T]\d\d(:?\d\d(:?\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a render's dataset: ours, then its labels', by name."""

    #: Label → (column, kind); values of several kinds become text (JSON).
    labels: Mapping[str, tuple[str, Kind]]
    #: Columns of labels that are numbers, or true or false, where they are given, but are not always.
    gaps: frozenset[str] = frozenset()
    #: Columns of labels whose text is a time here and there, which readers of JSON would take for one in some shards.
    times: frozenset[str] = frozenset()

    @property
    def kinds(self) -> dict[str, Kind]:
        return {**COLUMNS, **dict(self.labels.values())}

    def without_gaps(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """For readers that learn a column's type from its first values.

        Where there is no text it is empty. Numbers with gaps are JSON in text.
        """
        return self._filled(row, self.gaps)

    def without_null(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """For readers of JSON lines that look for times besides: text that is a time here and there is JSON in text."""
        return self._filled(row, self.gaps | self.times)

    def _filled(self, row: Mapping[str, Any], quoted: frozenset[str]) -> dict[str, Any]:
        kinds = self.kinds
        return {
            name: ("" if value is None else _json(value))
            if name in quoted
            else ("" if value is None and kinds[name] == "text" else value)
            for name, value in row.items()
        }


def columns_of(labels: Iterable[Mapping[str, Any] | None]) -> Columns:
    """Look through all labels of a render. One that is called like a column of ours becomes `label_…`."""
    found: dict[str, set[Kind]] = {}
    given: Counter[str] = Counter()
    times: Counter[str] = Counter()
    sets = 0
    for said in labels:
        sets += 1
        for name, value in (said or {}).items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(_kind(value))
                given[name] += 1
                times[name] += isinstance(value, str) and _TIME.fullmatch(value) is not None
    named = {name: (_column(name, found), _common(kinds)) for name, kinds in sorted(found.items())}
    return Columns(
        labels=named,
        gaps=frozenset(column for name, (column, kind) in named.items() if kind != "text" and given[name] < sets),
        times=frozenset(column for name, (column, kind) in named.items() if kind == "text" and 0 < times[name] < sets),
    )


def row_of(job: JobView, key: str, batch: BatchView | None, columns: Columns) -> dict[str, Any]:
    """Every column, None where there is nothing to say."""
    spec = job.spec
    controls = {name: value for name, value in spec.fields().items() if name in Controls.model_fields}
    row: dict[str, Any] = dict.fromkeys(columns.kinds)
    row |= {
        "key": key,
        "job": job.id,
        "index": job.index,
        "custom_id": job.custom_id,
        "status": "success" if job.state is State.DONE else str(job.state),
        "error": job.error,
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "seed": spec.seed,
        "model": spec.model,
        "sampler": spec.sampler,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "width": spec.width,
        "height": spec.height,
        "controls": _json(controls) if controls else None,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "sha256": job.sha256,
        "pixels_sha256": job.pixels_sha256,
        "remarks": "\n".join(job.remarks) or None,
        "bytes": job.bytes,
    }
    if batch is not None:
        row |= {
            "weights": batch.recipe.get("weights"),
            "made_with": _json(batch.recipe_with(job.own_recipe)),
            "render_seconds": batch.render_seconds,
            "batch_size": len(batch.job_row_ids),
            "batch_position": batch.job_row_ids.index(job.row_id),
        }
    for name, value in (job.labels or {}).items():
        column, kind = columns.labels[name]
        row[column] = _as(kind, value)
    return row


def _kind(value: object) -> Kind:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return "text"
    return _KINDS.get(type(value), "text")


def _column(name: str, names: Mapping[str, object]) -> str:
    """`names` are those of all labels."""
    # `image` is what the formats call the picture itself.
    column = f"label_{name}" if name in COLUMNS or name == "image" else name
    # What ends so is taken for another picture's file by readers of image folders.
    if column.endswith(("file_name", "file_names")):
        column += "_"
    while column != name and column in names:
        column += "_"
    return column


def _common(kinds: set[Kind]) -> Kind:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "fraction" if kinds == {"whole", "fraction"} else "text"


def _as(kind: Kind, value: Any) -> Any:
    if value is None or kind != "text":
        return float(value) if kind == "fraction" and value is not None else value
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Status → how many rows."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["status"]] = found.get(row["status"], 0) + 1
    return dict(sorted(found.items()))
