"""Remarks: what is allowed, but hardly what was meant."""

import difflib
from collections.abc import Iterator
from functools import cache

from storage.jobs.values import NewJob
from storage.spec.capabilities import remarks
from storage.spec.picture import NAMES
from storage.spec.registry import Registry


def remarks_on(job: NewJob, registry: Registry) -> Iterator[str]:
    """Yield the remarks on one picture; the same words for all pictures of which they are true."""
    yield from remarks(job.spec, registry[job.spec.model])
    if job.labels:
        yield from map(_remark_on_label, job.labels)


@cache
def _remark_on_label(name: str) -> str:
    """Say that a column is a label: a mistyped field is one, too, and somebody should see it."""
    meant = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.8)
    return f"{name}: kept as a label" + (f"; did you mean {meant[0]}?" if meant else "")
