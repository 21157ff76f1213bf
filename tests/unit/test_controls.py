"""Controls of a picture: how they are written, what fits which model, what may share a batch."""

import re
from typing import Any

import pytest

from scheduler.intake.submit import SpecifiedJobs
from storage.errors import BadSettings, BadSpecification
from storage.jobs.values import NewJob
from storage.spec.capabilities import remarks
from storage.spec.picture import Request, Spec, read_spec
from storage.spec.registry import parse_registry

REGISTRY = parse_registry(
    """
[models.xl]
kind = "diffusers"
source = "nowhere"
pipeline = "StableDiffusionXLPipeline"
[models.two]
kind = "diffusers"
source = "nowhere"
pipeline = "StableDiffusionPipeline"
controlnets = ["nowhere/pose", { source = "nowhere/edges", variant = "fp16" }]
controlnet_conditioning_scale = 0.7
[models.kandinsky]
kind = "diffusers"
source = "nowhere"
pipeline = "KandinskyV22Pipeline"
prior_num_inference_steps = 20
[models.flux]
kind = "diffusers"
source = "nowhere"
pipeline = "FluxPipeline"
[models.unknown]
kind = "diffusers"
source = "nowhere"
[models.simulated]
kind = "simulated"
[loras.ink]
source = "nowhere/ink"
models = ["xl"]
""",
    where="here",
)
ONE, OTHER = ("sha256:" + digit * 64 for digit in "01")


def spec(model: str = "xl", **fields: Any) -> Spec:
    asked = {"prompt": "a red star", "model": model} | fields
    return REGISTRY.resolve(Request.parse({name: value for name, value in asked.items() if value is not None}), seed=1)


# -- writing them ----------------------------------------------------------------------------------------------


def test_cells_of_a_table_say_the_same_as_typed_fields() -> None:
    cells = {
        "prompt": "a red star",
        "model": "two",
        "control_images": f"{ONE}, {OTHER}",
        "control_scale": "0.5, 1",
        "control_end": "0.8",
        "guess_mode": "true",
        "weighting": "compel",
    }
    typed = {
        "prompt": "a red star",
        "model": "two",
        "control_images": [ONE, OTHER],
        "controlnet_conditioning_scale": [0.5, 1],
        "control_guidance_end": 0.8,
        "guess_mode": True,
        "prompt_weighting": "compel",
    }
    read = REGISTRY.resolve(Request.parse_strings(cells), seed=1)
    assert read == REGISTRY.resolve(Request.parse(typed), seed=1)
    assert read.control_guidance_end == (0.8, 0.8)


def test_loras_are_named_with_their_scales() -> None:
    assert spec(loras="ink").loras == spec(loras={"ink": 1}).loras == {"ink": 1.0}
    assert spec(loras="ink=0.5").loras == {"ink": 0.5}
    with pytest.raises(BadSpecification, match="loras: name ink twice; give it one scale"):
        Request.parse({"prompt": "a", "loras": "ink=0.5, ink=0.6"})
    with pytest.raises(BadSpecification, match=r"loras: write a LoRA's scale as ink=0\.6 \(given: 'ink:0\.6'\)"):
        Request.parse({"prompt": "a", "loras": "ink:0.6"})


def test_a_model_has_defaults_for_its_controls() -> None:
    assert spec("two", control_images=[ONE, OTHER]).controlnet_conditioning_scale == (0.7, 0.7)
    assert spec("kandinsky").prior_num_inference_steps == 20


def test_what_was_written_is_read_again() -> None:
    written = [
        spec(original_size=[1024, 768], crops_coords_top_left=[0, 8], loras={"ink": 0.5}, clip_skip=2),
        spec(prompt=None, prompt_embeds=ONE),
        spec("two", control_images=[ONE, OTHER], control_start=[0.0, 0.5]),
    ]
    assert [read_spec(one.canonical()) for one in written] == written
    assert "eta" not in written[0].canonical()


# -- batches ---------------------------------------------------------------------------------------------------


def test_inputs_may_differ_within_a_batch_and_controls_may_not() -> None:
    def key(**fields: Any) -> str:
        return spec("two", **({"control_images": [ONE, OTHER]} | fields)).batch_key()

    assert key() == key(control_images=[OTHER, OTHER], prompt="a blue cross")
    others = [key(control_scale=0.5), key(control_end=0.5), key(guess_mode=True), key(weighting="compel")]
    assert len({key(), *others}) == 5


def test_embeddings_and_prompts_are_not_mixed_in_a_batch() -> None:
    assert spec(prompt=None, prompt_embeds=ONE).batch_key() == spec(prompt=None, prompt_embeds=OTHER).batch_key()
    assert spec(prompt=None, prompt_embeds=ONE).batch_key() != spec().batch_key()


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        ("xl", {"control_images": [ONE]}, "control_images: the model xl has 0 ControlNets"),
        ("xl", {"guess_mode": True}, "guess_mode: the model xl has no ControlNet"),
        ("two", {}, "control_images: the model two has 2 ControlNets.*none given"),
        ("two", {"control_images": [ONE]}, "2 ControlNets.*1 given"),
        ("two", {"control_images": [ONE, "a.png"]}, "'a.png' is not a stored input"),
        ("two", {"control_images": []}, "control_images: must be 1 to 8"),
        ("two", {"control_images": [ONE, OTHER], "control_scale": [1, 1, 1]}, "3 numbers for 2 ControlNets"),
        ("two", {"control_images": [ONE, OTHER], "control_scale": float("nan")}, "scale: must be from 0 to 10"),
        ("two", {"control_images": [ONE, OTHER], "control_scale": True}, "scale: must be numbers"),
        # No float holds it.
        ("two", {"control_images": [ONE, OTHER], "control_scale": 10**400}, "scale: must be from 0 to 10"),
        ("xl", {"loras": {"ink": -(10**400)}}, "loras: must be from -10 to 10"),
        ("two", {"control_images": [ONE, OTHER], "control_start": 0.5, "control_end": 0.5}, "must be below"),
        ("kandinsky", {"weighting": "compel"}, "prompt_weighting: .*KandinskyV22Pipeline.* does not support it"),
        ("kandinsky", {"prompt": None, "prompt_embeds": ONE}, "prompt_embeds: .* does not support it"),
        ("kandinsky", {"width": 520}, "width: must be a multiple of 64 .* 512 or 576"),
        ("kandinsky", {"sampler": "euler"}, "sampler: .* does not support it"),
        ("flux", {"negative": "blue"}, "negative_prompt: the model flux .FluxPipeline. does not support it"),
        ("xl", {"prior_steps": 5}, "prior_num_inference_steps: .* does not support it"),
        ("xl", {"loras": {"oil": 1}}, "loras: no LoRA named 'oil'; registered LoRAs: ink"),
        ("unknown", {"loras": {"ink": 1}}, "loras: ink is made for xl, not for unknown"),
        ("xl", {"loras": {"ink": 99}}, "loras: must be from -10 to 10"),
        ("xl", {"original_size": [1024]}, "original_size: must be two whole numbers"),
        ("xl", {"original_size": [0, 8]}, "original_size: must be two whole numbers of at least 1"),
        ("xl", {"clip_skip": 0}, "clip_skip: must be greater than or equal to 1"),
        ("xl", {"eta": 0.5, "sampler": "euler"}, "eta: the sampler Euler"),
        ("xl", {"weighting": "compel", "clip_skip": 1}, "clip_skip: cannot be combined with prompt_weighting"),
        ("xl", {"weighting": "compel", "prompt": "a (red star"}, r"prompt: '\(' at character 3 is never closed"),
        ("xl", {"weighting": "compel", "prompt": "a red) star"}, r"prompt: '\)' at character 6 closes nothing"),
        ("xl", {"prompt_embeds": ONE}, "prompt: cannot be combined with prompt_embeds"),
        (
            "xl",
            {"prompt": None, "prompt_embeds": ONE, "negative": "b"},
            "negative_prompt: cannot be combined",
        ),
        ("xl", {"prompt": None}, "prompt: missing"),
        ("simulated", {"eta": 0.5}, "eta: the model simulated is simulated"),
    ],
)
def test_a_control_that_does_not_fit_is_refused(model: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        spec(model, **fields)


def test_escaped_parentheses_are_letters() -> None:
    assert spec(weighting="compel", prompt=r"a smile :\) (red)1.2").prompt.endswith("1.2")


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        ("xl", {"guidance": 1, "negative": "blue"}, ["negative_prompt: the model xl ignores it"]),
        ("xl", {"guidance": 1}, []),
        ("xl", {"guidance": 1.1, "negative": "blue"}, []),
        ("kandinsky", {"guidance": 1, "negative": "blue"}, []),
        ("kandinsky", {"guidance": 1, "negative": "blue", "prior_guidance": 0}, ["negative_prompt: .* kandinsky"]),
        ("xl", {"width": 512, "height": 512}, ["the model xl draws poorly below 1024 × 1024 pixels"]),
        ("xl", {"width": 640, "height": 1536}, []),
        ("kandinsky", {"width": 256, "height": 256}, []),
        ("simulated", {"guidance": 1, "negative": "blue"}, []),
    ],
)
def test_what_is_hardly_meant_is_remarked_on(model: str, fields: dict[str, Any], says: list[str]) -> None:
    size = {"width": 1024, "height": 1024}
    found = list(remarks(spec(model, **size | fields), REGISTRY[model]))
    assert len(found) == len(says)
    assert all(map(re.search, says, found)), found


def test_remarks_are_counted_over_a_render() -> None:
    sizes = (1024, 512, 512, 512)
    wanted = [NewJob(spec=spec("xl", width=size, height=size)) for size in sizes]
    jobs = SpecifiedJobs(iter(wanted), REGISTRY)
    assert list(jobs) == wanted
    assert list(jobs.remarks.values()) == [3]


def test_what_a_model_takes_is_left_to_its_worker_where_it_is_not_known() -> None:
    assert spec("unknown", eta=0.5, weighting="compel").eta == 0.5


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('[models.a]\nkind = "diffusers"\nsource = "b"\ncontrolnets = [1]', r"\[models.a\].*controlnets"),
        ('[models.a]\nkind = "diffusers"\nsource = "b"\ncompile = "fast"', r"\[models.a\].*compile"),
        ('[models.a]\nkind = "simulated"\n[loras.b]\n', r"\[loras.b\] source"),
        ('[models.a]\nkind = "simulated"\n[loras.b]\nsource = "c"\nmodels = ["d"]', r"\[loras.b\] models: 'd'"),
    ],
)
def test_a_wrong_entry_is_named(entry: str, says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        parse_registry(entry, where="here")


def test_the_repository_that_moved_is_found_under_its_old_name() -> None:
    entry = '[models.a]\nkind = "diffusers"\nsource = "runwayml/stable-diffusion-v1-5"'
    assert parse_registry(entry, where="here")["a"].source == "stable-diffusion-v1-5/stable-diffusion-v1-5"  # type: ignore[union-attr]


# -- what does nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        ("xl", {"loras": {"ink": 0.0}}, ["loras: ink changes nothing at a scale of 0"]),
        ("xl", {"loras": {"ink": -0.5}}, []),
        ("two", {"guidance_scale": 0.5}, ["guidance_scale: below 1 the model two draws without guidance, as at 0"]),
        ("xl", {"guidance_scale": 0.99}, ["guidance_scale: below 1 the model xl draws without guidance, as at 0"]),
        ("xl", {"guidance_scale": 0.0}, []),
        ("xl", {"guidance_scale": 1.0}, []),
        # It is told the number.
        ("flux", {"guidance_scale": 0.5}, []),
        ("unknown", {"guidance_scale": 0.5}, []),
    ],
)
def test_a_number_that_changes_nothing_is_remarked_upon(model: str, fields: dict[str, Any], said: list[str]) -> None:
    images = {"control_images": [ONE, OTHER]} if model == "two" else {}
    made = spec(model, **fields, **images, width=1024, height=1024)
    assert [*remarks(made, REGISTRY[model])] == said
