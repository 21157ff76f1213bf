"""By how many threads a CPU renders: as many as the call says, and the same bits again by as many."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.pipelines.conftest import Models
from worker.rendering.backend import LoadedModel

Loader = Callable[[str], LoadedModel]


@pytest.fixture(autouse=True)
def own() -> Iterator[int]:
    """The number of threads that the process started with."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def rendered(models: Models, model: LoadedModel, threads: int | None) -> tuple[bytes, set[int], Any]:
    """What a call by so many threads draws, by how many it rendered at each step, and what its recipe says."""
    seen: list[int] = []
    made = model.render(models.specs("sd", 2), lambda: seen.append(torch.get_num_threads()), threads=threads)
    return b"".join(np.asarray(picture).tobytes() for picture in made.pictures), set(seen), made.recipe["threads"]


def test_a_call_is_rendered_by_as_many_threads_as_it_says_and_its_recipe_says_so(
    models: Models, loaded: Loader, own: int
) -> None:
    model = loaded("sd")
    for threads in (3, 1, 2):
        _, seen, recipe = rendered(models, model, threads)
        assert (seen, recipe) == ({threads}, threads)
    # What one call was told is over with it.
    _, seen, recipe = rendered(models, model, None)
    assert (seen, recipe) == ({own}, own)


def test_the_same_number_of_threads_draws_the_same_bits_whatever_came_between(models: Models, loaded: Loader) -> None:
    model = loaded("sd")
    first = {threads: rendered(models, model, threads)[0] for threads in (1, 2, 3)}
    for threads in (3, 1, 2, 1):
        assert rendered(models, model, threads)[0] == first[threads]


def test_embeddings_made_by_another_number_of_threads_are_made_again(models: Models, loaded: Loader) -> None:
    model: Any = loaded("sd")
    encodings: list[int] = []
    hook = model.pipeline.text_encoder.register_forward_hook(lambda *_: encodings.append(torch.get_num_threads()))
    try:
        model._prompts.forget()
        for threads in (1, 2, 1, 2):
            rendered(models, model, threads)
    finally:
        hook.remove()
    assert set(encodings[: len(encodings) // 2]) == {1}
    assert encodings.count(1) == encodings.count(2) == len(encodings) // 2
