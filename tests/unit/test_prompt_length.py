"""Words that a model does not read are counted as its tokenizer counts them, and said where they are submitted."""

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from storage.spec import clip_tokens
from storage.spec.capabilities import remarks
from storage.spec.clip_tokens import ClipTokens, clip_tokens_of
from storage.spec.model_files import SHIPPED
from storage.spec.models import DiffusersModel, Weights
from storage.spec.picture import Request, Spec
from storage.spec.prompt_length import unread
from storage.spec.registry import Registry
from tests.examples import examples

[OURS] = clip_tokens_of(Weights(source="shipped:shapes"))
THEIRS = Tokenizer.from_file(str(SHIPPED / "shapes/tokenizer/tokenizer.json"))
_TEXTS = st.text() | st.lists(
    st.sampled_from(["red", "star's", "large", "1024", "…", "ΟΔΟΣ", "é", "e\u0301", "\t", "'S", "x'd"])
).map(" ".join)


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(_TEXTS)
@example("a LARGE red star, 8k!! it's (great) \U0001f600\U0001f44d\U0001f3fd ١٢٣ Ⅷ ½ 中文字 İstanbul ΣΑΣ \x1c_x \u200b")
@example("a\u00a0b\u2009c\u3000d\x85e\x1ff")
@example("\u0958\u0f43 a\u0301\u0323 ﬁ \U0001d15e")
@example("<|endoftext|> red <|startoftext|>star")
def test_tokens_are_counted_as_the_tokenizer_does(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # Lone surrogates are no text, and refused before.
    theirs = THEIRS.encode(text, add_special_tokens=False)
    total, cut = ClipTokens([*OURS._ranks], 3).count(text)
    assert total == len(theirs.ids)
    assert ClipTokens([*OURS._ranks], total).count(text) == (total, None)
    assert (cut is None) == (total <= 3)
    if cut is not None and text.isascii():
        assert cut == theirs.offsets[3][0] or text[cut : theirs.offsets[3][0]].strip() != ""


def model(**fields: object) -> DiffusersModel:
    return DiffusersModel.model_validate({"alias": "shapes", "kind": "diffusers", "source": "shipped:shapes", **fields})


def spec(**fields: object) -> Spec:
    registry = Registry(models={"shapes": model()}, default="shapes")
    return registry.resolve(Request.parse({"prompt": "a star", **fields}), seed=0)


def test_75_tokens_are_read_and_the_76th_is_named_with_its_place() -> None:
    assert list(unread(spec(prompt="star " * 75), model())) == []
    [end] = unread(spec(prompt="star " * 75 + "on a red star"), model())
    assert (end.field, end.room, end.tokens, end.character, end.text) == ("prompt", 75, 79, 376, "on a red star")
    assert end.words.startswith(
        "prompt: the model shapes reads 75 of its 79 tokens; ignored from character 376 on: 'on a red star'"
    )


def test_a_negative_prompt_counts_where_it_is_used() -> None:
    long = "star " * 76
    assert [end.field for end in unread(spec(negative_prompt=long), model())] == ["negative_prompt"]
    assert list(unread(spec(negative_prompt=long, guidance_scale=1.0), model())) == []


@pytest.mark.parametrize("language", ["compel", "webui"])
def test_weighted_prompts_are_read_whole(language: str) -> None:
    assert list(unread(spec(prompt="star " * 90, prompt_weighting=language), model())) == []


def test_where_the_tokenizer_is_not_here_or_not_clips_nothing_is_said(tmp_path: Path) -> None:
    long = spec(prompt="star " * 90)
    assert list(unread(long, model(source="nobody/has-this"))) == []
    shutil.copytree(SHIPPED / "shapes/tokenizer", tmp_path / "tokenizer")
    index = {"_class_name": "FluxPipeline", "tokenizer": ["transformers", "CLIPTokenizer"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"tokenizer_2": ["transformers", "T5TokenizerFast"]}))
    assert list(unread(long, model(source=str(tmp_path)))) == []


def test_both_forms_of_a_tokenizers_files_are_read(tmp_path: Path) -> None:
    whole = json.loads((SHIPPED / "shapes/tokenizer/tokenizer.json").read_text())
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "model_index.json").write_text('{"tokenizer": ["transformers", "CLIPTokenizerFast"]}')
    (tmp_path / "tokenizer/tokenizer_config.json").write_text('{"model_max_length": 77}')
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
    (tmp_path / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    [older] = clip_tokens_of(Weights(source=str(tmp_path)))
    for text in ("a large red star", "purple hearts & rings", "unknown words"):
        assert older.count(text) == OURS.count(text)


def test_the_letters_of_bytes_are_those_of_the_vocabulary() -> None:
    assert len(set(clip_tokens._LETTERS.values())) == 256
    assert clip_tokens._LETTERS[ord("a")] == "a"
    assert clip_tokens._LETTERS[0] == "Ā"


def test_no_more_than_a_few_places_are_shown() -> None:
    from scheduler.intake.submit import SpecifiedJobs
    from storage.jobs.values import NewJob

    registry = Registry(models={"shapes": model()}, default="shapes")
    jobs = (NewJob(spec=spec(prompt=f"{'star ' * 80}{n}")) for n in itertools.count())
    specified = SpecifiedJobs(itertools.islice(jobs, 30), registry)
    specified.exhaust()
    assert len(specified.remarks) == 6
    assert specified.remarks[max(specified.remarks, key=lambda remark: specified.remarks[remark])] == 25


def _folder(path: Path, index: Mapping[str, object], room: int | None = None) -> Path:
    shutil.copytree(SHIPPED / "shapes/tokenizer", path / "tokenizer")
    (path / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "CLIPTokenizer"], **index}))
    if room is not None:
        (path / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": room}))
    return path


def test_of_a_model_that_comes_without_its_longest_encoder_the_others_count(tmp_path: Path) -> None:
    long = spec(prompt="star " * 90)
    without = _folder(tmp_path, {"_class_name": "StableDiffusion3Pipeline", "tokenizer_3": [None, None]})
    assert [end.room for end in unread(long, model(source=str(without)))] == [75]
    (tmp_path / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusion3Pipeline",
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "tokenizer_3": ["transformers", "T5TokenizerFast"],
            }
        )
    )
    clip_tokens._tokenizers.cache_clear()
    assert list(unread(long, model(source=str(tmp_path)))) == []


@pytest.mark.parametrize(("room", "found"), [(64, [64]), (10**30, []), (None, [])])
def test_where_a_tokenizers_file_sets_the_limit_it_is_that(tmp_path: Path, room: int, found: list[int]) -> None:
    index = {"_class_name": "PRXPipeline", "tokenizer": ["transformers", "GemmaTokenizerFast"]}
    folder = _folder(tmp_path, index, room)
    if room is None:
        (folder / "tokenizer/tokenizer_config.json").unlink()
    assert [end.room for end in unread(spec(prompt="star " * 90), model(source=str(folder)))] == found


def test_a_negative_prompt_that_is_cut_at_its_prompts_length_is_remarked_on() -> None:
    lumina = model(source="nobody/has-this", pipeline="LuminaPipeline")
    said = [list(remarks(spec(negative_prompt=text), lumina)) for text in ("grey", "neither grey nor blurry")]
    assert [any(one.startswith("negative_prompt: ") for one in found) for found in said] == [False, True]
