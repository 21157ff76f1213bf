"""What a picture's prompt language and length ask of its model, checked where it is submitted."""

from typing import Any

import pytest

from storage.errors import BadSpecification
from storage.spec.capabilities import remarks
from storage.spec.kinds import has_kind
from storage.spec.models import DiffusersModel
from storage.spec.picture import Request, Spec
from storage.spec.prompt_length import unread
from storage.spec.registry import Registry, parse_registry

REGISTRY = parse_registry(
    """
default = "shapes"
[models.shapes]
kind = "diffusers"
source = "shipped:shapes"
[models.elsewhere]
kind = "diffusers"
source = "nobody/has-this"
pipeline = "StableDiffusionXLPipeline"
[models.pag]
kind = "diffusers"
source = "nobody/has-this"
pipeline = "StableDiffusionPAGPipeline"
[models.flux]
kind = "diffusers"
source = "nobody/has-this"
pipeline = "FluxPipeline"
width = 512
[models.strict]
kind = "diffusers"
source = "shipped:shapes"
long_prompts = "refuse"
[models.whole]
kind = "diffusers"
source = "shipped:shapes"
long_prompts = "chunk"
[loras.ink]
source = "nobody/has-ink"
[loras.oil]
source = "nobody/has-oil"
""",
    where="here",
)
LONG = "star " * 75 + "on a red star"


def spec(**fields: Any) -> Spec:
    return REGISTRY.resolve(Request.parse({"prompt": "a star", **fields}), seed=0)


@pytest.mark.parametrize("language", ["webui", "a1111"])
def test_the_web_uis_language_goes_by_two_names(language: str) -> None:
    found = spec(prompt="a [red:blue:0.5] star", weighting=language)
    assert (found.prompt, found.prompt_weighting) == ("a [red:blue:0.5] star", "webui")
    assert spec(model="pag", prompt="(a:1.2)", weighting=language).prompt_weighting == "webui"


def test_a_registry_may_name_the_language_either_way() -> None:
    [model] = parse_registry(
        '[models.m]\nkind = "diffusers"\nsource = "x/y"\nprompt_weighting = "a1111"', where="here"
    ).models.values()
    assert isinstance(model, DiffusersModel)
    assert model.prompt_weighting == "webui"


def test_loras_in_a_prompt_are_switched_on_where_its_language_is_read() -> None:
    found = spec(prompt="a <lora:Ink:0.8> star", weighting="webui", loras={"oil": 0.5})
    assert (found.prompt, found.loras) == ("a  star", {"oil": 0.5, "ink": 0.8})
    assert spec(prompt="a <lora:ink:0.8> star").loras is None
    assert spec(prompt="1 < 2", weighting="webui").prompt == "1 < 2"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "<lora:ink:1> <lora:INK:0.5> a"}, "prompt: the LoRA 'ink' is named twice"),
        ({"prompt": "<lora:ink:1> a", "loras": {"ink": 0.5}}, "prompt: the LoRA 'ink' is named twice"),
        ({"prompt": "<lora:gone:1> a"}, "loras: no LoRA named 'gone'"),
        ({"prompt": "<lora:ink:0.8:0.2> a"}, "prompt: .*one weight for text encoder and UNet"),
        ({"prompt": "<hypernet:x:1> a"}, "prompt: '<hypernet:x:1>': only <lora:NAME:WEIGHT> is supported"),
        ({"prompt": "<lora:ink:1>"}, "prompt: must not be empty"),
        ({"negative_prompt": "<lora:ink:1>"}, "negative_prompt: '<lora:ink:1>' is not switched on from here"),
        ({"prompt": "a AND b", "guidance_scale": 1.0}, "prompt: prompts put together by AND"),
        (
            {"prompt": "[a|b]", "model": "pag"},
            "prompt: the model pag cannot draw it: StableDiffusionPAGPipeline",
        ),
        ({"negative_prompt": "[a|b]", "model": "pag"}, "prompt: the model pag cannot draw it"),
        ({"prompt": "a AND b", "model": "pag"}, "prompt: the model pag cannot draw it"),
        ({"prompt": "[a|b]", "model": "flux"}, "prompt_weighting: the model flux .* does not support it"),
    ],
)
def test_what_would_not_be_done_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpecification, match=words):
        spec(weighting="webui", **fields)


def test_a_weight_of_the_whole_prompt_that_does_nothing_is_told() -> None:
    said = [*remarks(spec(prompt="a star :1.2", weighting="webui", guidance_scale=1.0), REGISTRY["shapes"])]
    assert "prompt: the weight behind its last colon steers by guidance, which is off" in said
    guided = [*remarks(spec(prompt="a star :1.2", weighting="webui"), REGISTRY["shapes"])]
    assert [remark.partition(",")[0] for remark in guided] == ["prompt: a number behind the last colon"]


# -- long prompts ----------------------------------------------------------------------------------------------


def test_a_long_prompt_is_cut_with_a_remark_unless_its_model_says_otherwise() -> None:
    [end] = unread(spec(prompt=LONG), REGISTRY["shapes"])
    assert (end.tokens, end.character, end.text) == (79, 376, "on a red star")
    assert list(unread(spec(prompt=LONG, model="whole"), REGISTRY["whole"])) == []
    with pytest.raises(BadSpecification, match="prompt: the model strict reads 75 of its 79 tokens; .* character 376"):
        spec(prompt=LONG, model="strict")
    with pytest.raises(BadSpecification, match="negative_prompt: the model strict reads 75 of its 79 tokens"):
        spec(negative_prompt=LONG, model="strict")
    assert spec(prompt=LONG, model="strict", long_prompts="cut").long_prompts == "cut"
    assert spec(prompt=LONG, model="strict", weighting="webui").prompt == LONG
    assert spec(prompt="a star", model="strict").prompt == "a star"


def test_without_a_tokenizer_what_is_certainly_too_long_is_told() -> None:
    words = "a, " * 38
    [end] = unread(spec(prompt=words, model="elsewhere"), REGISTRY["elsewhere"])
    assert (end.room, end.tokens, end.character, end.at_least) == (75, 76, 113, True)
    assert end.words.startswith(
        "prompt: the model elsewhere reads 75 of its more than 76 tokens; ignored from character 113 on, or earlier"
    )
    assert list(unread(spec(prompt="a, " * 37, model="elsewhere"), REGISTRY["elsewhere"])) == []
    with pytest.raises(BadSpecification, match="reads 75 of its more than 76"):
        spec(prompt=words, model="elsewhere", long_prompts="refuse")


def test_a_model_without_clip_alone_reads_no_chunks() -> None:
    with pytest.raises(BadSpecification, match="long_prompts: the model flux .* cannot read prompts in chunks"):
        spec(model="flux", long_prompts="chunk")
    assert spec(model="flux", long_prompts="refuse").long_prompts == "refuse"


def test_only_what_looks_at_no_prompt_is_of_a_kind() -> None:
    assert has_kind(spec(long_prompts="cut"))
    assert not has_kind(spec(long_prompts="refuse"))
    assert not has_kind(spec(long_prompts="chunk"))
    assert Registry(models=REGISTRY.models, default="strict").resolve(Request.parse({"prompt": "a"}), seed=0)
