"""Remarks: warnings about what is allowed but probably not meant."""

import difflib
from collections.abc import Iterator
from functools import cache

from storage.jobs.values import NewJob
from storage.spec.capabilities import remarks
from storage.spec.picture import NAMES
from storage.spec.registry import Registry


def remarks_on(job: NewJob, registry: Registry) -> Iterator[str]:
    """Yield the remarks on one picture; the same text for all pictures that they apply to."""
    yield from remarks(job.spec, registry[job.spec.model])
    if job.labels:
        yield from map(_remark_on_label, job.labels)


@cache
def _remark_on_label(name: str) -> str:
    """Return the remark on a label: a mistyped field name becomes one too, and somebody should see it."""
    meant = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.8)
    return f"{name}: kept as a label" + (f"; did you mean {meant[0]}?" if meant else "")
