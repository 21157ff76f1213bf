"""What is asked for in one submission, from prompts and files to a specification for each picture.

An order can be gone through as often as need be: to count, to upload what it names, to submit it.
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
from scheduler.intake.submit import specify
from scheduler.intake.templates import Templates
from scheduler.intake.uploads import upload_all, with_references
from storage.errors import BadSpecification
from storage.jobs.values import NewJob
from storage.objects.store import ObjectStore
from storage.spec.picture import Request
from storage.spec.registry import Registry

_PIECE = 2**20


@dataclass(frozen=True, kw_only=True)
class Order:
    """Prompts and requests, the rows of a file, the prompts of templates; each for every combination of values."""

    prompts: tuple[str, ...] = ()
    requests: tuple[Request, ...] = ()
    manifest: Manifest | None = None
    templates: Templates | None = None
    #: Fields for whoever leaves them out.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Fields of which each request gets every value (`scheduler.intake.grid`).
    in_step: grid.Columns = field(default_factory=dict)
    combined: grid.Columns = field(default_factory=dict)
    pictures_each: int = 1
    seed: int | None = None

    def asked(self, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
        """A request for each picture, copies not counted. Raises InvalidInput with the place of what is wrong."""
        drawn = self._of_templates() if self.templates is not None else ()
        found: Iterator[SourcedRequest] = chain(self.rows(bad), drawn)
        if self.manifest is None and self.templates is None and not self.prompts and not self.requests:
            # Embeddings stand for all words.
            found = numbered([Request.parse({"prompt_embeds": self.defaults.get("prompt_embeds")})])
        return grid.multiplied(with_defaults(found, self.defaults), self.in_step, self.combined)

    def rows(self, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
        """What was typed or is in the file, before anything is filled in."""
        typed = (Request.parse({"prompt": prompt}) for prompt in self.prompts)
        return chain(
            numbered(chain(typed, self.requests)),
            read_manifest(self.manifest, bad=bad) if self.manifest is not None else (),
        )

    def wanted(self, registry: Registry, objects: ObjectStore, bad: BadRows | None = None) -> Iterator[NewJob]:
        """Complete specifications with seeds. Stores the files that are named, before anything else.

        Raises InvalidInput with the place of what is wrong, unless `bad` leaves it out.
        """
        known: Mapping[str, str | BadSpecification] = {}
        if self._names_inputs():
            # What is left out here is met again, and counted then.
            skipping = BadRows(report=lambda _: None) if bad is not None and bad.report else BadRows()
            known = upload_all(objects, self.asked(skipping))
        asked = with_references(self.asked(bad), known, bad)
        return specify(asked, registry, pictures_each=self.pictures_each, seed=self.seed, bad=bad)

    def fingerprint(self) -> str:
        """Equal for orders that ask for the same; takes a look at the whole file."""
        said = {
            "prompts": [self.prompts, [request.model_dump(mode="json") for request in self.requests]],
            "manifest": None if self.manifest is None else _hash_of(self.manifest),
            "templates": None if self.templates is None else self.templates.model_dump(mode="json", exclude={"seed"}),
            "fields": [dict(self.defaults), dict(self.in_step), dict(self.combined), self.pictures_each, self.seed],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _names_inputs(self) -> bool:
        fields = {*self.defaults, *self.in_step, *self.combined}
        named = not fields.isdisjoint({"control_images", "prompt_embeds"})
        return named or (self.manifest is not None and names_inputs(self.manifest))

    def _of_templates(self) -> Iterator[SourcedRequest]:
        if self.templates is not None:
            for number, prompt in enumerate(self.templates.prompts(), start=1):
                try:
                    yield SourcedRequest(f"prompt {number} of the templates", Request.parse({"prompt": prompt}))
                except BadSpecification as error:
                    raise BadSpecification(f"prompt {number} of the templates ({prompt[:40]!r}): {error}") from None


def _hash_of(manifest: Manifest) -> str:
    digest = hashlib.sha256(manifest.kind.encode())
    with manifest.path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
