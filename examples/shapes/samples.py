"""What the model is trained on: drawings with the weights of their words."""

import random
from dataclasses import dataclass

from examples.shapes.drawings import COLOURS, SIDE, Drawing, drawing
from examples.shapes.prompts import Wish

#: Weights of the words of two colours, from and to.
_WEIGHTS = (0.4, 1.6)


@dataclass(frozen=True)
class Sample:
    """A drawing; if it is of two colours, with the weights of their words that give its share."""

    drawing: Drawing
    weights: tuple[float, float] = (1.0, 1.0)


def sample(rng: random.Random, *, width: int = SIDE, height: int = SIDE) -> Sample:
    """Any drawing, one in seven of two colours: of the first the more, the more its word weighs than the other."""
    if rng.random() > 1 / 7:
        return Sample(drawing(rng, width=width, height=height))
    colour, second = rng.sample(list(COLOURS), 2)
    weights = (rng.uniform(*_WEIGHTS), rng.uniform(*_WEIGHTS)) if rng.random() < 0.7 else (1.0, 1.0)
    share = min(0.95, max(0.05, 0.5 + 0.45 * (weights[0] - weights[1])))
    drawn = drawing(rng, colour=colour, second=second, share=share, width=width, height=height)
    return Sample(drawn, weights)


def weights_of(of: Sample, asked: Wish, rng: random.Random) -> dict[str, float]:
    """Weights of a prompt's words: those of two colours as drawn, now and then one that changes nothing."""
    if asked.both:
        return {of.drawing.colour: of.weights[0], str(asked.second): of.weights[1]}
    said = [word for word in (asked.size, asked.shape, asked.colour, asked.background) if word]
    if said and not asked.second and rng.random() < 0.15:
        return {rng.choice(said): rng.uniform(1.0, 1.5)}
    return {}
