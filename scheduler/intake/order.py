"""Orders: what is asked for in one submission, whichever way it came in.

An order can be read repeatedly: to count it, to store the inputs that it names, to submit it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from scheduler.intake import grid
from scheduler.intake.manifests import Manifest, names_inputs, read_manifest
from scheduler.intake.requests import BadRows, SourcedRequest, numbered, with_defaults
from scheduler.intake.templates import Templates
from storage.errors import BadSpecification
from storage.spec.picture import Request, Spec

_PIECE = 2**20
_INPUTS = ("control_images", "prompt_embeds")


@dataclass(frozen=True, kw_only=True)
class Order:
    """Hold prompts, requests, a prompt file and templates; each is rendered for every combination of values."""

    prompts: tuple[str, ...] = ()
    requests: tuple[SourcedRequest, ...] = ()
    manifest: Manifest | None = None
    templates: Templates | None = None
    #: Complete specifications, as of pictures that are rendered again; nothing below changes them.
    specs: tuple[Spec, ...] = ()
    #: Fields for requests that leave them out.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Lists of values for each request (`scheduler.intake.grid`).
    in_step: grid.Columns = field(default_factory=dict)
    combined: grid.Columns = field(default_factory=dict)
    pictures_each: int = 1
    seed: int | None = None
    #: Remarks of the way in, such as on fields that it ignores.
    remarks: tuple[str, ...] = ()

    def asked(self, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
        """Yield a request for each picture, copies not counted. Raises InvalidInput with the place of the error."""
        return grid.multiplied(self._single(bad), self.in_step, self.combined)

    def _single(self, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
        """Yield the requests before values are combined with them."""
        drawn = self._of_templates() if self.templates is not None else ()
        found: Iterator[SourcedRequest] = chain(self.rows(bad), drawn)
        named = (self.prompts, self.requests, self.manifest, self.templates, self.specs)
        if not any(named) and "prompt_embeds" in self.defaults:
            # Embeddings replace all text.
            found = iter([SourcedRequest("", Request.parse({"prompt_embeds": self.defaults["prompt_embeds"]}))])
        elif not any(named) and "prompt" in {*self.in_step, *self.combined}:
            # To be replaced by each of the prompts there.
            found = iter([SourcedRequest("", Request.parse({"prompt": "-"}))])
        return with_defaults(found, self.defaults)

    def rows(self, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
        """Yield what was typed and the rows of the file, before defaults are filled in."""
        return chain(
            numbered(Request.parse({"prompt": prompt}) for prompt in self.prompts),
            self.requests,
            read_manifest(self.manifest, bad=bad) if self.manifest is not None else (),
        )

    @property
    def is_read(self) -> bool:
        """Return whether its pictures can only be counted by reading them."""
        return self.manifest is not None or self.templates is not None

    @property
    def pictures_of_each(self) -> int:
        """Return how many pictures each prompt, row or template of it makes."""
        return self.pictures_each * grid.size(self.in_step, self.combined)

    def pictures(self, at_most: int) -> int:
        """Count its pictures, reading no more of it than makes so many. Raises InvalidInput as `asked` does."""
        combinations = grid.size(self.in_step, self.combined)
        count = len(self.specs)
        # What is bad is told when all is read.
        bad = BadRows(together=True)
        for one in self._single(bad) if combinations and count < at_most else ():
            count += (one.copies or self.pictures_each) * combinations
            if count >= at_most:
                break
        return min(count, at_most)

    def names_inputs(self) -> bool:
        """Return whether it may name conditioning images or embeddings: much faster than reading it."""
        if not {*self.defaults, *self.in_step, *self.combined}.isdisjoint(_INPUTS):
            return True
        if any(getattr(one.request, name) is not None for one in self.requests for name in _INPUTS):
            return True
        return self.manifest is not None and names_inputs(self.manifest)

    def fingerprint(self) -> str:
        """Return a hash that is equal for equal orders; reads the whole file."""
        said = {
            "prompts": [self.prompts, [one.request.model_dump(mode="json") for one in self.requests]],
            "manifest": None if self.manifest is None else _hash_of(self.manifest),
            "templates": None if self.templates is None else self.templates.model_dump(mode="json", exclude={"seed"}),
            "fields": [dict(self.defaults), dict(self.in_step), dict(self.combined), self.pictures_each, self.seed],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _of_templates(self) -> Iterator[SourcedRequest]:
        if self.templates is not None:
            for number, prompt in enumerate(self.templates.prompts(), start=1):
                try:
                    yield SourcedRequest(f"prompt {number} of the templates", Request.parse({"prompt": prompt}))
                except BadSpecification as error:
                    raise BadSpecification(f"prompt {number} of the templates ({prompt[:40]!r}): {error}") from None


def _hash_of(manifest: Manifest) -> str:
    # Read otherwise, it is another order.
    digest = hashlib.sha256(manifest.kind.encode() + (manifest.delimiter or "").encode())
    with manifest.path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
