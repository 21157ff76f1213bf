"""What a LoRA's file says of itself: its base, its rank, the words that it was trained with, its licence."""

import json
from collections import Counter
from dataclasses import dataclass

from storage.spec.lora_header import DOWNS, MAGNITUDES, made_for, method_of
from storage.spec.safetensors_header import Header
from storage.spec.single_file import FAMILY_NAMES, stated

#: How trainers name bases (kohya's `ss_base_model_version`, ModelSpec's `architecture`): the family.
_BASES = {
    "sdxl": "SDXL",
    "stable-diffusion-xl": "SDXL",
    "sd_v1": FAMILY_NAMES["sd1"],
    "sd_1": FAMILY_NAMES["sd1"],
    "stable-diffusion-v1": FAMILY_NAMES["sd1"],
    "sd_v2": FAMILY_NAMES["sd2"],
    "sd_2": FAMILY_NAMES["sd2"],
    "stable-diffusion-v2": FAMILY_NAMES["sd2"],
    "sd3": "Stable Diffusion 3",
    "stable-diffusion-3": "Stable Diffusion 3",
    "flux2": "FLUX.2",
    "flux-2": "FLUX.2",
    "flux": "FLUX.1",
}
#: What the door calls a base → what it is called here.
_TOLD_AT_THE_DOOR = {"Stable Diffusion 1": FAMILY_NAMES["sd1"], "Stable Diffusion 2": FAMILY_NAMES["sd2"]}
_MOST_TAGS = 5
_TOLD = 200


@dataclass(frozen=True, kw_only=True)
class LoraFacts:
    """What was found; empty or None: the file does not say."""

    base: str | None
    #: What it is where it is another than a plain LoRA, such as "a LoHa".
    method: str | None
    #: The smallest and the largest of its modules.
    ranks: tuple[int, int] | None
    trigger: str | None
    #: Of the captions that it was trained with, the most frequent tags.
    tags: tuple[str, ...]
    licence: str | None

    @property
    def words(self) -> list[str]:
        """Say all that is known, a sentence each."""
        ranks = None if self.ranks is None else sorted(set(self.ranks))
        found = [
            self.base and f"made for {self.base}",
            self.method,
            ranks and f"rank {' to '.join(map(str, ranks))}",
            self.trigger and f"trigger words: {self.trigger}",
            self.tags and not self.trigger and f"most frequent tags in its training: {', '.join(self.tags)}",
            self.licence and f"licence: {self.licence}",
        ]
        return [one for one in found if one]


def lora_facts(header: Header) -> LoraFacts:
    """Read what a header says."""
    return LoraFacts(
        base=_stated_base(header) or _base_by_names(header),
        method=_method(header),
        ranks=_ranks(header),
        trigger=_one_line(stated(header, "modelspec.trigger_phrase")),
        tags=_tags(stated(header, "ss_tag_frequency")),
        licence=licence(header),
    )


def _method(header: Header) -> str | None:
    if any(name.endswith(MAGNITUDES) for name in header.tensors):
        return "a DoRA, whose scale must be 1"
    return method_of(header.tensors)


def licence(header: Header) -> str | None:
    """Return the licence that a file states."""
    return _one_line(stated(header, "modelspec.license"))


def _stated_base(header: Header) -> str | None:
    said = (stated(header, "ss_base_model_version", "modelspec.architecture") or "").lower()
    return next((name for start, name in _BASES.items() if said.startswith(start)), None)


def _base_by_names(header: Header) -> str | None:
    told = made_for({name: tensor.shape for name, tensor in header.tensors.items()}, {})
    return _TOLD_AT_THE_DOOR.get(told or "", told)


def _ranks(header: Header) -> tuple[int, int] | None:
    found = [tensor.shape[0] for name, tensor in header.tensors.items() if _is_down(name) and tensor.shape]
    return (min(found), max(found)) if found else None


def _is_down(name: str) -> bool:
    return name.endswith(DOWNS)


def _tags(written: str | None) -> tuple[str, ...]:
    """Return the most frequent of kohya's `ss_tag_frequency`: for each folder of pictures, tags and their counts."""
    counted: Counter[str] = Counter()
    try:
        for tags in json.loads(written or "{}").values():
            counted.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(_one_line(tag) or "" for tag, _ in counted.most_common(_MOST_TAGS) if tag)


def _one_line(text: str | None) -> str | None:
    # It goes into a comment of the registry: no line of its own, no control characters.
    plain = "".join(letter if letter.isprintable() else " " for letter in text or "")
    return " ".join(plain.split())[:_TOLD] or None
