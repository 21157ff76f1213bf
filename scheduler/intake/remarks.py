"""Remarks: warnings about what is allowed but probably not meant."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from storage.jobs.values import NewJob
from storage.spec import other_languages
from storage.spec.capabilities import REMARK_ON_LARGE_SEEDS, lora_remarks, remarks, remarks_beside_words, words_taken
from storage.spec.embedding_words import clash_remarks
from storage.spec.kinds import SpecKind
from storage.spec.models import SimulatedModel
from storage.spec.picture import DISTINCT_SEEDS, NAMES, Spec
from storage.spec.prompt_length import PromptReader, Unread, readable_fields
from storage.spec.registry import Registry

#: Columns of a prompt file that are named in remarks.
_MOST_LABELS = 100


def remarks_on(job: NewJob, registry: Registry) -> Iterator[str]:
    """Yield the remarks on one picture; the same text for all pictures that they apply to."""
    model = registry[job.spec.model]
    yield from remarks(job.spec, model, registry.embeddings)
    yield from lora_remarks(job.spec, registry.loras, model)
    if registry.checks is not None:
        yield from registry.checks.remarks(model)


class KindRemarks:
    """The remarks on pictures of one kind: only their prompt and seed are looked at for each."""

    def __init__(self, kind: SpecKind, registry: Registry) -> None:
        spec, model = kind.first, registry[kind.first.model]
        self._seeds_matter = not isinstance(model, SimulatedModel)
        self._on_negative = (*other_languages.remarks("negative_prompt", spec.negative_prompt, spec.prompt_weighting),)
        checked = [] if registry.checks is None else registry.checks.remarks(model)
        loras = lora_remarks(spec, registry.loras, model)
        self._beside_words = (*remarks_beside_words(spec, model, registry.embeddings), *loras, *checked)
        self._words = words_taken(model, registry.embeddings)
        self._on_negative += (*clash_remarks("negative_prompt", spec.negative_prompt, self._words),)
        self._reader = PromptReader(model, registry.embeddings)
        others = [text for field, text in readable_fields(spec, self._reader.pipeline) if field != "prompt"]
        self._unread_negative = (*(one for text in others for one in self._reader.unread("negative_prompt", text)),)
        self._always = (*self._on_negative, *self._beside_words)

    def on(self, spec: Spec) -> Iterable[str]:
        """Return what `remarks_on` yields."""
        large = spec.seed >= DISTINCT_SEEDS and self._seeds_matter
        if not large and not self._words and not other_languages.may_be_remarked(spec.prompt):
            return self._always
        return (
            *other_languages.remarks("prompt", spec.prompt, None),
            *clash_remarks("prompt", spec.prompt, self._words),
            *self._on_negative,
            *((REMARK_ON_LARGE_SEEDS,) if large else ()),
            *self._beside_words,
        )

    def unread(self, spec: Spec) -> Sequence[Unread]:
        """Return what `storage.spec.prompt_length.unread` yields."""
        if self._reader.surely_reads(spec.prompt):
            return self._unread_negative
        return (*self._reader.unread("prompt", spec.prompt), *self._unread_negative)


class LabelRemarks:
    """Remark on the labels of an order: on the first ones one by one, for each row may have others."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        #: Labels that were met together before → how often again.
        self._again: dict[tuple[str, ...], int] = {}

    def noted(self, labels: Iterable[str]) -> Iterable[str]:
        """Return the remarks on the labels of one picture; none if they are counted with those of the ones before."""
        names = (*labels,)
        if names in self._again:
            self._again[names] += 1
            return ()
        if len(self._again) < _MOST_LABELS:
            self._again[names] = 0
        return self.on(names)

    @property
    def counted(self) -> Iterator[tuple[str, int]]:
        """The remarks that `noted` counted, each with the number of pictures."""
        return ((remark, pictures) for names, pictures in self._again.items() for remark in self.on(names))

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
