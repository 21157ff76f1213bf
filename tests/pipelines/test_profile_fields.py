"""Every key of storage/spec/profiles.toml does something: another value changes what is said or asked of a pipeline."""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

from storage.errors import BadSpecification
from storage.spec import profiles
from storage.spec.capabilities import remarks
from storage.spec.guidance import is_guided
from storage.spec.picture import Request, Spec
from storage.spec.profile_rules import described, negative_hint
from storage.spec.profiles import Distillation, Profile, distillation, profile_of
from storage.spec.prompt_length import room_of
from storage.spec.registry import parse_registry
from storage.spec.samplers import has_prior
from tests.pipelines import test_families
from tests.pipelines.parts import tokenizer_of_bytes
from worker.devices import Device
from worker.rendering.call import call_recipe, family_arguments
from worker.rendering.diffusers_backend import _dtype, _opener
from worker.rendering.prompts import Prompts
from worker.rendering.samplers import make_scheduler, spaced_as_distilled
from worker.rendering.unread import _beside

CLASS = "StableDiffusionPipeline"
FAMILY = "StableDiffusion"
ENTRY = f'[models.m]\nkind = "diffusers"\nsource = "a/b"\npipeline = "{CLASS}"\n'


def spec(**fields: Any) -> Spec:
    return parse_registry(ENTRY, where="here").resolve(Request.parse({"prompt": "a red star"} | fields), seed=1)


def said(**fields: Any) -> object:
    """What the door says of a picture: remarks, or why it is refused."""
    found = parse_registry(ENTRY + str(fields.pop("entry", "")), where="here")
    try:
        return list(remarks(found.resolve(Request.parse({"prompt": "a red star"} | fields), seed=1), found["m"]))
    except BadSpecification as error:
        return str(error)


def pipeline() -> Any:
    """An object of a class of this name: what is asked of it goes by that alone."""
    transformer = SimpleNamespace(config={})
    return type(CLASS, (), {"transformer": transformer, "max_sequence_length": None, "system_prompt": "draw"})()


def asked() -> object:
    takes = ["pinned_one", "area", "true_cfg_scale", "guidance_scale", "guidance_schedule"]
    return family_arguments(pipeline(), spec(), takes)


def recipe() -> object:
    parameter = inspect.Parameter("recorded_one", inspect.Parameter.KEYWORD_ONLY, default=3)
    return call_recipe(pipeline(), {"recorded_one": parameter})


def profile() -> Profile:
    found = profile_of(CLASS)
    assert found is not None
    return found


def tokenizer() -> Any:
    """Counts words, as of a chat's template too."""

    class Words:
        def __call__(self, text: str) -> Any:
            return SimpleNamespace(input_ids=text.split())

        def apply_chat_template(self, *_: Any, **said: Any) -> str:
            return "user : assistant : think" if said["enable_thinking"] else "user : assistant"

    return Words()


def prompts() -> Prompts:
    nothing: Any = None
    return Prompts(pipeline(), nothing, nothing)


def together() -> object:
    """Which of two pictures share a call, and which negative prompts it is given."""
    some = [spec(), spec(negative_prompt="grey")]
    return prompts()._calls(some), prompts()._negatives(some[:1])


#: Key → another value than the family's, and what is looked at.
FIELDS: Mapping[str, tuple[object, Callable[[], object]]] = {
    "drawn": (False, said),
    "guidance": ("true_cfg", asked),
    "off": (5.0, lambda: is_guided(spec(guidance_scale=3.0), CLASS)),
    "least_guidance": (5.0, lambda: said(guidance_scale=3.0)),
    "negative": ("embeddings", lambda: (negative_hint(CLASS), dict(described(profile()))["negative"])),
    "no_negative": ("zeros", together),
    "encoders": (("T5",), lambda: dict(described(profile()))["reads"]),
    "room": (10, lambda: (room_of(CLASS), dict(described(profile()))["reads"])),
    "beyond": ("read", lambda: dict(described(profile()))["reads"]),
    "negative_room": ("in eights", lambda: said(negative_prompt="neither grey nor blurry")),
    "template": ("chat", lambda: _beside(pipeline(), tokenizer(), profile(), "prompt")),
    "multiple": (64, lambda: said(width=520)),
    "native": ((2048, 2048), said),
    "least_trained": (0.9, lambda: said(width=64, height=64)),
    "half": ("bfloat16", lambda: _dtype(parse_registry(ENTRY, where="here")["m"], Device("cuda", 0), CLASS)),  # type: ignore[arg-type]
    "refused_dtypes": (("float16",), lambda: said(entry='dtype = "float16"')),
    "pinned": ({"pinned_one": False}, asked),
    "area_argument": ("area", asked),
    "recorded": (("recorded_one",), recipe),
    "lower_case": (True, recipe),
    "packages": (("a_package",), lambda: dict(described(profile())).get("needs")),
    "neighbours": ("lengthen", together),
    "prior": (True, lambda: has_prior(parse_registry(ENTRY, where="here")["m"], None)),  # type: ignore[arg-type]
    "opened_by": ("DiffusionPipeline", lambda: _opener(CLASS)),
    "distilled": ("turbo", lambda: said(num_inference_steps=30)),
}
#: What only tests go by: the farm refuses odd sizes whatever the pipeline makes of them.
OF_TESTS = {"odd_sizes": test_families}

DISTILLED: Mapping[str, tuple[object, Callable[[], object]]] = {
    "steps": ((10, 20), lambda: said(entry='distilled = "turbo"')),
    "most_guidance": (9.0, lambda: said(entry='distilled = "turbo"', guidance_scale=5.0)),
    "samplers": (("ddim",), lambda: said(entry='distilled = "turbo"')),
    "usual": (
        {"num_inference_steps": 3},
        lambda: parse_registry(f'{ENTRY}distilled = "turbo"', where="here")["m"].defaults,
    ),
    "spacing": (
        None,
        lambda: make_scheduler(
            None, spaced_as_distilled(diffusers.EulerDiscreteScheduler(timestep_spacing="leading"), "turbo")
        ).config["timestep_spacing"],
    ),
}


def test_every_key_has_a_case() -> None:
    assert {*FIELDS, *OF_TESTS} == set(Profile.model_fields)
    assert set(DISTILLED) == set(Distillation.model_fields)
    written = tomllib.loads(files("storage.spec").joinpath("profiles.toml").read_text(encoding="utf-8"))
    assert {key for family, table in written.items() if family != "distilled" for key in table} <= {*FIELDS, *OF_TESTS}
    for key, module in OF_TESTS.items():
        assert f"profile.{key}" in inspect.getsource(module)


@pytest.mark.parametrize("key", FIELDS)
def test_another_value_changes_what_is_said_or_asked(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, seen = FIELDS[key]
    before = seen()
    # As it is written, its kinds of values are checked.
    changed = Profile.model_validate({**profile().model_dump(), key: value})
    known = {**profiles._profiles(), FAMILY: changed}
    monkeypatch.setattr(profiles, "_profiles", lambda: known)
    assert seen() != before


@pytest.mark.parametrize("key", DISTILLED)
def test_another_value_of_a_distillation_changes_what_is_said(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, seen = DISTILLED[key]
    before = seen()
    changed = Distillation.model_validate({**distillation("turbo").model_dump(), key: value})
    known = {**profiles._distillations(), "turbo": changed}
    monkeypatch.setattr(profiles, "_distillations", lambda: known)
    assert seen() != before


def test_what_stands_around_a_prompt_is_counted_where_its_own_pipeline_puts_it() -> None:
    """Of pipelines that need torchvision to be loaded whole."""
    bytes_ = tokenizer_of_bytes()
    flux2 = SimpleNamespace(tokenizer=bytes_, system_message="draw what is said")
    found = profile_of("Flux2Pipeline")
    assert found is not None
    assert _beside(flux2, bytes_, found, "prompt") == len("draw what is said")
    nucleus: Any = object.__new__(diffusers.NucleusMoEImagePipeline)
    nucleus.processor = bytes_
    found = profile_of("NucleusMoEImagePipeline")
    assert found is not None
    assert _beside(nucleus, bytes_, found, "prompt") > 100
