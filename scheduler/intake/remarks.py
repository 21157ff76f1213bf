"""Remarks: warnings about what is allowed but probably not meant."""

import difflib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from storage.jobs.values import NewJob
from storage.spec.capabilities import remarks
from storage.spec.picture import NAMES
from storage.spec.registry import Registry

#: Columns of a prompt file that are named in remarks.
_MOST_LABELS = 100


def remarks_on(job: NewJob, registry: Registry) -> Iterator[str]:
    """Yield the remarks on one picture; the same text for all pictures that they apply to."""
    yield from remarks(job.spec, registry[job.spec.model])


class LabelRemarks:
    """Remark on the labels of an order: on the first ones one by one, for each row may have others."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def on(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the remarks on the labels of one picture."""
        others = False
        for name in names:
            if name in self._told:
                yield _remark_on_label(name)
            elif len(self._told) < _MOST_LABELS:
                self._told.add(name)
                yield _remark_on_label(name)
            else:
                others = True
        if others:
            yield "further columns: kept as labels"


@lru_cache(maxsize=1000)
def _remark_on_label(name: str) -> str:
    """Return the remark on a label: a mistyped field name becomes one too, and somebody should see it."""
    # A column of labels is called `label` in a thousand datasets.
    known = NAMES - {"labels"} if name.casefold() == "label" else NAMES
    meant = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name}: kept as a label" + (f"; did you mean {meant[0]}?" if meant else "")
