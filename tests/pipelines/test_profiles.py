"""The profiles of pipelines are what the installed Diffusers does; each value has its source."""

import inspect
import json
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from storage.errors import BadSettings, BadSpecification, ModelUnavailable
from storage.objects.folder import LocalObjects
from storage.spec.capabilities import remarks
from storage.spec.picture import Request, Spec
from storage.spec.profile_rules import check_profile, described
from storage.spec.profiles import DISTILLED, distillation, profile_of
from storage.spec.registry import parse_registry
from tests.pipelines.tried import Tried
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.call import family_arguments
from worker.rendering.diffusers_backend import _dtype
from worker.rendering.input_cache import InputCache
from worker.rendering.learn_capabilities import OTHERS
from worker.rendering.open_backend import open_backend
from worker.rendering.samplers import make_scheduler, spaced_as_distilled

LEARNED: dict[str, dict[str, Any]] = json.loads(files("storage.spec").joinpath("pipelines.json").read_text())
DRAWN = [name for name in LEARNED if (profile := profile_of(name)) is not None and profile.drawn]
#: Tokens that mark beginning and end, or what a template adds behind a prompt.
MOST_MARKS = 5


def registry(entry: str, model: str = "sd") -> Any:
    return parse_registry(f'[models.{model}]\nkind = "diffusers"\nsource = "owner/name"\n{entry}', where="here")


def said(entry: str, **fields: Any) -> list[str]:
    found = registry(entry)
    spec = found.resolve(Request.parse({"prompt": "a red star"} | fields), seed=1)
    return list(remarks(spec, found["sd"]))


def test_each_value_has_a_source() -> None:
    lines = files("storage.spec").joinpath("profiles.toml").read_text().splitlines()
    assert [line for line in lines if " = " in line and not line.startswith("#") and "  # " not in line] == []


def test_every_class_that_can_be_opened_has_a_profile() -> None:
    assert [name for name in LEARNED if profile_of(name) is None] == []
    by_auto = {kind.__name__ for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    for name in OTHERS:
        profile = profile_of(name)
        assert name not in by_auto
        assert profile is not None
        assert profile.opened_by == "DiffusionPipeline"


@pytest.mark.parametrize("name", DRAWN)
def test_a_profile_is_what_the_signature_says(name: str) -> None:
    profile, learned = profile_of(name), LEARNED[name]
    assert profile is not None
    # What rewrites a prompt or a size is off, whatever a release of Diffusers adds.
    assert set(profile.pinned) == set(learned.get("switches", {}))
    assert (profile.negative == "text") == ("negative_prompt" in learned["controls"])
    most = learned["defaults"].get("max_sequence_length")
    if most is not None and profile.room is not None:
        assert most - MOST_MARKS <= profile.room <= most - ("T5" in profile.encoders[-1])
    if profile.guidance == "true_cfg":
        assert "true_cfg_scale" in learned["defaults"]
    if {"width", "height"} <= set(learned["defaults"]):
        assert profile.native == (learned["defaults"]["width"], learned["defaults"]["height"])


def test_arguments_that_recipes_tell_are_there() -> None:
    for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
        profile = profile_of(kind.__name__)
        if profile is not None and profile.drawn:
            there = {*inspect.signature(kind.__call__).parameters, *inspect.getsource(kind).split()}
            for name in profile.recorded:
                assert name in there or f"self.{name}" in there, (kind.__name__, name)


def test_a_dtype_that_a_family_cannot_draw_in_is_refused_at_the_door_and_not_chosen() -> None:
    for dtype in ("auto", "bfloat16", "float32"):
        assert said(f'pipeline = "SanaPipeline"\ndtype = "{dtype}"', width=1024, height=1024) == []
    with pytest.raises(BadSpecification, match="model: sd is registered with dtype float16, in which a SanaPipeline"):
        said('pipeline = "SanaPipeline"\ndtype = "float16"')
    model = registry("")["sd"]
    chosen = {
        name: _dtype(model, Device("cuda", 0), name) for name in ("SanaPipeline", "StableDiffusionPipeline", None)
    }
    assert [str(dtype) for dtype in chosen.values()] == ["torch.bfloat16", "torch.float16", "torch.float16"]
    assert str(_dtype(model, Device("cpu", 0), "SanaPipeline")) == "torch.float32"
    with pytest.raises(ValueError, match="a SanaPipeline cannot draw in float16"):
        _dtype(registry('dtype = "float16"')["sd"], Device("cuda", 0), "SanaPipeline")


@pytest.mark.parametrize("kind", DISTILLED)
def test_a_distilled_model_has_defaults_of_its_kind_and_a_word_is_said_of_others(kind: str) -> None:
    entry = f'pipeline = "StableDiffusionPipeline"\ndistilled = "{kind}"'
    assert said(entry) == []
    usual = distillation(kind).usual  # type: ignore[arg-type]
    spec = registry(entry).resolve(Request.parse({"prompt": "a red star"}), seed=1)
    assert {name: getattr(spec, name) for name in usual} == usual
    others = said(entry, num_inference_steps=30, guidance_scale=7.5, sampler="dpm++ 2m karras")
    assert [remark.partition(": the model sd was distilled for ")[0] for remark in others] == [
        "num_inference_steps",
        "guidance_scale",
        "sampler",
    ]


def test_a_kind_of_distillation_is_refused_for_families_that_have_none(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="distilled: is for models of Stable Diffusion and SDXL, and .* ZImage"):
        registry('pipeline = "ZImagePipeline"\ndistilled = "turbo"')
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    found = parse_registry(
        f'[models.z]\nkind = "diffusers"\nsource = "{tmp_path}"\ndistilled = "turbo"\nsampler = "euler"', where="here"
    )
    with pytest.raises(BadSpecification, match="the entry of z is wrong: distilled: "):
        check_profile(Spec(prompt="a", model="z", seed=1, **found["z"].defaults), found["z"], "ZImagePipeline")  # type: ignore[arg-type]


def test_weights_of_lightning_have_trailing_timesteps_whatever_their_folder_says() -> None:
    own = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, beta_schedule="scaled_linear")
    for sampler in (None, "euler"):
        scheduler = make_scheduler(sampler, spaced_as_distilled(own, "lightning"))
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
        assert scheduler.config.beta_schedule == "scaled_linear"
    assert spaced_as_distilled(own, None) is own
    assert spaced_as_distilled(own, "lcm") is own


def test_a_unet_that_is_told_its_guidance_reads_no_negative_prompt_and_that_is_said(tmp_path: Path) -> None:
    tried = Tried("sd-lcm", tmp_path / "sd-lcm")
    negative = tried.spec(negative_prompt="a grey thing")
    assert (tried.drawn(negative) == tried.drawn(tried.spec())).all()
    assert [remark for remark in tried.said(negative) if remark.startswith("negative_prompt: ")]


def test_an_entry_without_a_size_is_told_what_its_family_was_made_for() -> None:
    [remark] = said('pipeline = "FluxPipeline"')
    assert "made for 1024 × 1024 pixels" in remark
    assert said('pipeline = "FluxPipeline"', width=256, height=256) == []


def test_a_guidance_scale_that_a_pipeline_cannot_have_is_refused() -> None:
    with pytest.raises(BadSpecification, match="guidance_scale: must be 1 or more for the model sd"):
        said('pipeline = "PRXPipeline"', guidance_scale=0.5)


def test_noise_levels_of_a_models_own_do_not_say_how_many_steps_are_made(tmp_path: Path) -> None:
    pipeline = object.__new__(diffusers.QwenImage21Pipeline)
    pipeline.register_to_config(sample_sigmas=[1.0, 0.6, 0.2])
    pipeline.transformer = SimpleNamespace(config={})
    takes = inspect.signature(diffusers.QwenImage21Pipeline.__call__).parameters

    def asked(steps: int) -> Any:
        spec = Spec(**{"prompt": "a", "model": "q", "seed": 1, **found["q"].defaults, "num_inference_steps": steps})
        return family_arguments(pipeline, spec, takes).get("sigmas"), list(remarks(spec, found["q"]))

    index = {"_class_name": "QwenImage21Pipeline", "sample_sigmas": [1.0, 0.6, 0.2]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    entry = f'[models.q]\nkind = "diffusers"\nsource = "{tmp_path}"\nwidth = 1024\nheight = 1024'
    found = parse_registry(entry, where="here")
    assert asked(3) == (None, [])
    assert asked(2) == ([1.0, 0.5], [asked(2)[1][0]])
    assert asked(2)[1][0].startswith("num_inference_steps: the model q has noise levels of its own for 3 steps")


def test_a_package_that_a_family_needs_is_named(tmp_path: Path) -> None:
    tried = Tried("prx", tmp_path / "prx") if find_spec("ftfy") else None
    if tried is not None:
        assert tried.model is not None
        return
    (tmp_path / "model_index.json").write_text('{"_class_name": "PRXPipeline"}')
    found = parse_registry(f'[models.p]\nkind = "diffusers"\nsource = "{tmp_path}"', where="here")
    resources = BackendResources(inputs=InputCache(LocalObjects(tmp_path)), loras={}, home=tmp_path)
    words = "a PRXPipeline needs ftfy, not installed on this machine: pip install ftfy"
    with pytest.raises(ModelUnavailable, match=words):
        open_backend("diffusers", Device("cpu", 0), resources).load(found["p"])


def test_every_profile_can_be_told_in_words() -> None:
    told = {name: dict(described(profile)) for name in LEARNED if (profile := profile_of(name)) is not None}
    assert told["ZImagePipeline"]["guidance"] == "away from the negative prompt, above 0"
    assert told["FluxPipeline"]["negative"] == "none (its pipeline reads one only beside true_cfg_scale)"
    assert told["SanaPipeline"]["reads"] == "298 tokens of a prompt, in lower case (Gemma 2)"
    assert told["FluxControlPipeline"] == {"family": "this farm cannot draw with it"}
    assert told["PRXPipeline"]["needs"] == "ftfy where it is drawn (`pip install ftfy`)"


def test_an_entry_may_ask_for_perturbed_attention_of_a_plain_folder(tmp_path: Path) -> None:
    plain = Tried("sd", tmp_path / "sd")
    perturbed = Tried("sd", tmp_path / "sd", 'pipeline = "StableDiffusionPAGPipeline"')
    pictures = [tried.drawn(tried.spec()) for tried in (plain, perturbed)]
    assert (pictures[0] != pictures[1]).any()
    assert perturbed.model._recipe["pipeline"] == "StableDiffusionPAGPipeline"
    assert plain.registry["m"].base != perturbed.registry["m"].base


def test_half_precision_is_that_of_the_examples_which_are_named_for_it() -> None:
    """Of the families whose class is called otherwise, by a member."""
    written = files("storage.spec").joinpath("profiles.toml").read_text(encoding="utf-8")
    members = {"PixArt": "PixArtSigma", "CogView3": "CogView3Plus", "Kandinsky": "KandinskyV22Combined"}
    members["NucleusMoE"] = "NucleusMoEImage"
    looked_up = 0
    for part in written.split("\n[")[1:]:
        family = part.partition("]")[0]
        if found := re.search(r'half = "(\w+)"  # [^\n]*: example of its docstrings?', part):
            module = inspect.getmodule(getattr(diffusers, f"{members.get(family, family)}Pipeline"))
            assert module is not None
            assert f"torch.{found[1]}" in inspect.getsource(module).partition("class ")[0], family
            looked_up += 1
    assert looked_up > 20
