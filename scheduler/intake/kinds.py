"""The kinds of an order's pictures: what differs in prompt and seed alone is resolved once, and told of once."""

from collections.abc import Hashable
from operator import itemgetter

from scheduler.intake.remarks import KindRemarks
from scheduler.intake.requests import OF_ONE
from storage.spec.kinds import SpecKind, has_kind, is_plain
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry

_shared = itemgetter(*(name for name in Request.model_fields if name not in OF_ONE))
#: Kinds that are remembered, and characters of what they are known by: each row may have another negative prompt.
_MOST, _LONGEST = 1_000, 2_000


class Kinds:
    """Resolves the requests of one order; for one thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: What was asked for beside prompt and seed → its kind; None: it was asked for once.
        self._known: dict[str, SpecKind | None] = {}
        #: What requests that are alike are; for most rows of a manifest.
        self._alike: dict[Hashable, SpecKind] = {}

    def resolve(self, request: Request, seed: int, like: Hashable | None = None) -> tuple[Spec, SpecKind | None]:
        """Return what `Registry.resolve` does, and of which kind it is, if it is of one. Raises as that does.

        Args:
            seed: at most the largest.
            like: `SourcedRequest.like`.
        """
        kind = self._alike.get(like)
        if kind is not None:
            return kind.spec(request.prompt, seed), kind  # type: ignore[arg-type]  # it is plain
        spec, kind = self._resolve(request, seed)
        if like is not None and kind is not None:
            if len(self._alike) >= _MOST:
                self._alike.clear()
            self._alike[like] = kind
        return spec, kind

    def _resolve(self, request: Request, seed: int) -> tuple[Spec, SpecKind | None]:
        # As it is written: 1, 1.0, True, 0.0 and -0.0 are not all the same.
        asked = repr(_shared(request.__dict__))
        kind = self._known.get(asked)
        if kind is not None and is_plain(request.prompt, seed):
            return kind.spec(str(request.prompt), seed), kind
        spec = self._registry.resolve(request, seed=seed)
        if len(asked) > _LONGEST or not has_kind(spec):
            return spec, None
        if asked in self._known:
            # Worth it from the second on.
            kind = self._known[asked] = SpecKind(spec)
        else:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[asked] = None
        return spec, kind


class RemarksOfKinds:
    """The remarks on kinds, each looked at once; for one thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[SpecKind, KindRemarks] = {}

    def __getitem__(self, kind: SpecKind) -> KindRemarks:
        found = self._known.get(kind)
        if found is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            found = self._known[kind] = KindRemarks(kind, self._registry)
        return found
