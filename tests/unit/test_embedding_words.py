"""Textual inversions at the door: how many tokens their words stand for, which fit a model, and what they hide."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.remarks import KindRemarks, remarks_on
from storage.errors import BadSpecification
from storage.jobs.values import NewJob
from storage.spec.clip_tokens import clip_tokens_of
from storage.spec.embedding_words import WordCounter, clash_of, places, vectors_of
from storage.spec.kinds import SpecKind
from storage.spec.models import DiffusersModel, Embedding, Weights
from storage.spec.picture import Request
from storage.spec.prompt_length import unread
from storage.spec.registry import Registry, parse_registry
from tests.safetensors_files import written

#: Of the shipped model's text encoder.
WIDTH = 96
[SHAPES] = clip_tokens_of(Weights(source="shipped:shapes"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Words of 8 vectors, of one, of another model's width, of two encoders, and one that people write."""
    written(tmp_path / "eight.safetensors", {"emb_params": (8, WIDTH)})
    written(tmp_path / "one.safetensors", {"<token>": (WIDTH,)})
    written(tmp_path / "wide.safetensors", {"emb_params": (4, 768)})
    written(tmp_path / "xl.safetensors", {"clip_l": (3, 768), "clip_g": (3, 1280)})
    written(tmp_path / "none.safetensors", {"a": (1,), "b": (1,)})
    entries = {"eight-style": "eight", "one-style": "one", "wide-style": "wide", "xl-style": "xl", "none-style": "none"}
    text = '[models.shapes]\nkind = "diffusers"\nsource = "shipped:shapes"\n'
    text += '[models.xl]\nkind = "diffusers"\nsource = "a/b"\npipeline = "StableDiffusionXLPipeline"\n'
    text += "".join(f'[embeddings.{alias}]\nsource = "{file}.safetensors"\n' for alias, file in entries.items())
    text += '[embeddings.star]\nsource = "eight.safetensors"\nmodels = ["shapes"]\n'
    text += '[embeddings.elsewhere]\nsource = "someone/elsewhere"\n'
    return parse_registry(text, where="here", folder=tmp_path)


def ends(registry: Registry, prompt: str, **fields: Any) -> list[tuple[str, int, str]]:
    """What is not read: of which field, of how many tokens, and which words."""
    spec = registry.resolve(Request.parse({"prompt": prompt, "model": "shapes", **fields}), seed=1)
    return [(end.field, end.tokens, end.text) for end in unread(spec, registry["shapes"], registry.embeddings)]


def test_a_files_header_says_how_many_vectors_there_are(registry: Registry) -> None:
    held = {alias: vectors_of(one) for alias, one in registry.embeddings.items()}
    assert {alias: (one.number, one.widths) if one else None for alias, one in held.items()} == {
        "eight-style": (8, (WIDTH,)),
        "one-style": (1, (WIDTH,)),
        "wide-style": (4, (768,)),
        "xl-style": (3, (768, 1280)),
        "none-style": None,
        "star": (8, (WIDTH,)),
        "elsewhere": None,
    }


def test_each_vector_is_a_token_of_the_prompts_room(registry: Registry) -> None:
    assert ends(registry, "red " * 67 + "eight-style") == []
    assert ends(registry, "red " * 68 + "eight-style") == [("prompt", 76, "eight-style")]
    assert ends(registry, "eight-style " + "red " * 68) == [("prompt", 76, "red ")]
    # However short the prompt is: ten words of three characters are 80 tokens.
    assert ends(registry, " ".join(["Eight-Style,"] * 10))[0][1] == 90
    assert ends(registry, "red " * 74 + "one-style") == []
    assert ends(registry, "a red star", negative_prompt="eight-style " * 10)[0][:2] == ("negative_prompt", 80)


def test_what_does_not_fit_the_model_is_counted_as_the_words_that_it_is_read_as(registry: Registry) -> None:
    for alias in ("wide-style", "xl-style", "none-style"):
        room = 75 - SHAPES.count(alias)[0]
        assert ends(registry, "red " * room + alias) == []
        assert len(ends(registry, "red " * (room + 1) + alias)) == 1


def test_where_long_prompts_are_refused_vectors_count(registry: Registry) -> None:
    with pytest.raises(BadSpecification, match="reads 75 of its 76 tokens"):
        ends(registry, "red " * 68 + "eight-style", long_prompts="refuse")


def test_the_word_within_which_the_room_ends_is_named_whole(registry: Registry) -> None:
    counter = WordCounter(registry.models["shapes"], "shapes", registry.embeddings)  # type: ignore[arg-type]
    text = "red " * 70 + "eight-style red"
    assert counter.count(SHAPES, text) == (79, text.index("eight"))
    assert counter.count(SHAPES, "red eight-style") == (9, None)


def test_words_alone_are_found_in_whatever_case_the_longest_first() -> None:
    text = "Neg, neg-2 (NEG:1.2) negative x-neg"
    assert [(place.alias, text[place.start : place.end]) for place in places(text, ["neg-2", "neg"])] == [
        ("neg", "Neg"),
        ("neg-2", "neg-2"),
        ("neg", "NEG"),
    ]
    assert list(places(text, [])) == []


def test_an_embedding_that_hides_a_word_that_people_write_is_remarked_on(registry: Registry) -> None:
    said = "'star' is read as the embedding of that name, and no more as the word; rename its entry to have both"
    for fields, expected in (
        ({"prompt": "a red star", "model": "shapes"}, [f"prompt: {said}"]),
        ({"prompt": "a", "negative_prompt": "Star", "model": "shapes"}, [f"negative_prompt: {said}"]),
        ({"prompt": "starfish, eight-style", "model": "shapes"}, []),
        # Not for this model.
        ({"prompt": "a red star", "model": "xl"}, []),
    ):
        spec = registry.resolve(Request.parse(fields), seed=1)
        for told in (remarks_on(NewJob(spec=spec), registry), KindRemarks(SpecKind(spec), registry).on(spec)):
            assert [remark for remark in told if "embedding" in remark] == expected


def test_words_of_clips_vocabulary_are_those_that_people_write() -> None:
    assert all(clash_of(word) for word in ("cat", "style", "watercolor"))
    assert not any(clash_of(word) for word in ("easynegative", "bad-hands-5", "inkwash_v2"))


def test_an_entry_without_a_file_here_is_a_word_to_the_door(registry: Registry) -> None:
    assert vectors_of(Embedding(alias="x", source="a/b")) is None
    room = 75 - SHAPES.count("elsewhere")[0]
    assert ends(registry, "red " * room + "elsewhere") == []
    model = registry.models["xl"]
    assert isinstance(model, DiffusersModel)
    assert WordCounter(model, "xl", registry.embeddings).names_any("xl-style")
