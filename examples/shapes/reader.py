"""Reading prompts: the text encoder, and the questions by which it learns to."""

import math
import random
from collections.abc import Sequence

import torch
from torch.nn import functional

from examples.shapes import parts
from examples.shapes.drawings import COLOURS, POSITIONS, SHAPES, SIZES
from examples.shapes.prompts import Wish
from examples.shapes.samples import Sample


class Reader(torch.nn.Module):
    """Tokenizer and text encoder, and how the weights of words change what they say (Compel's way)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = parts.tokenizer()
        self.encoder = parts.text_encoder(self.tokens)

    def forward(self, texts: Sequence[str], weights: Sequence[dict[str, float]], rng: random.Random) -> torch.Tensor:
        """States (n, 77, width) of texts; of three in ten, those of the padding say nothing of the prompt.

        A word of weight w > 1 has its states moved away from those of the empty prompt, by w. For w < 1 the states are
        mixed with those of the prompt without that word, one to tan((1 − w)·π/2).
        """
        ids = self._ids(texts)
        states = self.encoder(ids).last_hidden_state
        empty = self.encoder(self._ids([""])).last_hidden_state
        factors = torch.ones(ids.shape)
        rows, amounts, masks = [], [], []
        for row, weights_of_row in enumerate(weights):
            for word, weight in weights_of_row.items():
                here = ids[row] == self.tokens.convert_tokens_to_ids(f"{word}</w>")
                factors[row, here] = weight
                if weight < 1:
                    rows.append(row)
                    amounts.append(math.tan((1 - weight) * math.pi / 2))
                    masks.append(~here)
        states = empty + (states - empty) * factors[..., None]
        if rows:
            without = self.encoder(ids[rows], attention_mask=torch.stack(masks).long()).last_hidden_state
            index, share = torch.tensor(rows), torch.tensor(amounts)[:, None, None]
            total = torch.ones(len(ids), 1, 1).index_add(0, index, share)
            states = states.index_add(0, index, (without * share).to(states.dtype)) / total
        padding = (ids == self.tokens.eos_token_id).cumsum(dim=1) > 1
        silent = torch.tensor([rng.random() < 0.3 for _ in texts])[:, None] & padding
        return torch.where(silent[..., None], empty, states)

    def _ids(self, texts: Sequence[str]) -> torch.Tensor:
        found: torch.Tensor = self.tokens(
            list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return found


#: What the text encoder is taught to find in a prompt; "" stands for what it does not say.
_QUESTIONS = {
    "size": ["", *SIZES],
    "shape": ["", *SHAPES],
    "background": ["", *COLOURS],
    "position": ["", *POSITIONS],
    "both": ["False", "True"],
}


class Pupil(torch.nn.Module):
    """A reader that is asked: with the pooling that the UNet has too, and a linear answer to each question."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader()
        self.pooled = parts.unet().add_embedding
        width = self.pooled.norm2.normalized_shape[0]
        self.answers = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, len(known)) for name, known in _QUESTIONS.items()}
        )
        self.colours = torch.nn.Linear(width, 1 + len(COLOURS))

    def losses(
        self, states: torch.Tensor, samples: Sequence[Sample], wishes: Sequence[Wish]
    ) -> dict[str, torch.Tensor]:
        """How wrong the answers are, by question."""
        pooled = self.pooled(states)
        losses = {
            name: functional.cross_entropy(self.answers[name](pooled), _answers(name, wishes)) for name in _QUESTIONS
        }
        said = functional.log_softmax(self.colours(pooled), dim=1)
        meant = torch.stack([_colours(of, asked) for of, asked in zip(samples, wishes, strict=True)])
        losses["colours"] = functional.kl_div(said, meant, reduction="batchmean")
        return losses


def _answers(name: str, wishes: Sequence[Wish]) -> torch.Tensor:
    said = (getattr(asked, name) for asked in wishes)
    return torch.tensor([_QUESTIONS[name].index("" if word is None else str(word)) for word in said])


def _colours(of: Sample, asked: Wish) -> torch.Tensor:
    """How much of each colour a prompt asks for; of none first."""
    amounts = torch.zeros(1 + len(COLOURS))
    names = [None, *COLOURS]
    share = of.drawing.share if asked.both else 0.5 if asked.second else 1.0
    amounts[names.index(asked.colour)] = share
    if asked.second:
        amounts[names.index(asked.second)] = 1 - share
    return amounts
