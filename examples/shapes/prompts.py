"""Prompts for drawings: in any order, of any subset of what a drawing is, among words that mean nothing here."""

import random
import string
from dataclasses import dataclass, fields, replace

from examples.shapes.drawings import COLOURS, POSITIONS, SHAPES, SIZES, Drawing


def _ways(position: str) -> list[str]:
    """Ways to write a position."""
    if position == "center":
        return ["center", "in the center", "in the middle", "centered", "middle"]
    where = f"in the {position} corner" if " " in position else f"on the {position}"
    return [position, f"at the {position}", where, f"{position} of the picture"]


_PLACES = {position: _ways(position) for position in POSITIONS}
_GROUNDS = ["on a {} background", "with a {} background", "against a {} background", "{} background", "on {}"]
_OPENINGS = ["a photo of", "a drawing of", "a picture of", "an image of", "an illustration of", "a painting of"]
_FILLINGS = [
    "8k", "4k", "hd", "best quality", "highly detailed", "masterpiece", "simple", "flat", "clean", "sharp", "beautiful",
    "minimalist", "vector art", "digital art", "geometric", "cute", "bright", "high resolution", "award winning",
    "a cat", "dog", "house", "tree", "city", "sky", "night", "by an artist", "trending", "cinematic", "style",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a prompt says; None where it says nothing. With `both`, the shape is of two colours, else of either."""

    size: str | None = None
    colour: str | None = None
    second: str | None = None
    both: bool = False
    shape: str | None = None
    background: str | None = None
    position: str | None = None


def wish(of: Drawing, rng: random.Random) -> Wish:
    """A wish that this drawing fulfils, for any subset of what it is."""
    said = rng.choice([0.4, 0.7, 0.95])
    asked = Wish(size=of.size, colour=of.colour, shape=of.shape, background=of.background, position=of.position)
    silent = {field.name: None for field in fields(Wish) if field.name != "both" and rng.random() > said}
    asked = replace(asked, **silent)  # type: ignore[arg-type]
    if asked.colour and of.second:
        return replace(asked, second=of.second, both=True)
    if asked.colour and rng.random() < 0.1:
        others = [name for name in COLOURS if name not in (of.colour, of.background)]
        return replace(asked, second=rng.choice(others))
    return asked


def words(wish: Wish, rng: random.Random, *, plain: bool = False) -> str:
    """A prompt that says so. With `plain` no word that means nothing."""
    parts = [_thing(wish, rng)]
    if wish.background:
        parts.append(rng.choice(_GROUNDS[:4] if plain else _GROUNDS).format(wish.background))
    if wish.position:
        parts.append(rng.choice(_PLACES[wish.position]))
    parts = [part for part in parts if part]
    if rng.random() < 0.4:
        rng.shuffle(parts)
    if not plain:
        if rng.random() < 0.3:
            parts[:1] = [f"{rng.choice(_OPENINGS)} {part}" for part in parts[:1]] or [rng.choice(_OPENINGS)]
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
            parts.insert(rng.randint(0, len(parts)), rng.choice([*_FILLINGS, nonsense(rng)]))
    joint = rng.choice([" ", ", "]) if len(parts) < 4 else ", "
    return joint.join(parts)


def nonsense(rng: random.Random) -> str:
    """A word that nobody knows."""
    return "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randint(2, 8)))


def vocabulary() -> list[str]:
    """Every word that a prompt may have, each to be one token."""
    known = [*COLOURS, *SHAPES, *SIZES, "shape", "and", "or", *_GROUNDS, *_OPENINGS, *_FILLINGS]
    known += [way for ways in _PLACES.values() for way in ways]
    common = "the of to is it with at by from for as in on very no not one two three background object thing icon logo"
    return sorted({word for phrase in [*known, common] for word in phrase.replace("{}", "").split() if word.isalpha()})


def _thing(wish: Wish, rng: random.Random) -> str:
    """The noun with what stands before it; without a noun or colour perhaps nothing at all."""
    colour = wish.colour
    if wish.second:
        pair = [wish.colour, wish.second]
        rng.shuffle(pair)
        colour = f" {'and' if wish.both else 'or'} ".join(filter(None, pair))
    before = " ".join(filter(None, [wish.size, colour]))
    noun = wish.shape or ("shape" if rng.random() < 0.6 else "")
    if not before and not wish.shape:
        noun = rng.choice(["", "", "shape"])
    phrase = " ".join(filter(None, [before, noun]))
    article = rng.choice(["a", "a", "the", "one", ""]) if noun else ""
    return " ".join(filter(None, [article, phrase]))
