"""Every key of a registry does something: another value changes what comes of it, or is refused with its name.

Those that say how a model is run (`Running`) are tried on pipelines, in tests/pipelines/test_running_fields.py.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadSettings, BadSpecification, RenderFault
from storage.spec.capabilities import check_loras, pipeline_of, remarks, taken_controls
from storage.spec.embedding_words import vectors_of
from storage.spec.entry_hash import entry_hash
from storage.spec.lora_header import wrong_in_header
from storage.spec.model_files import own_configuration
from storage.spec.models import (
    DiffusersModel,
    Embedding,
    Lora,
    Running,
    SimulatedFault,
    SimulatedModel,
    Weights,
)
from storage.spec.picture import Request
from storage.spec.registry import Registry, parse_registry
from storage.spec.wrong_files import wrong_in_files
from tests.safetensors_files import LORA, SD, SDXL, written
from worker.rendering.simulated import LoadedSimulation

SMALL = 'kind = "diffusers"\nsource = "a/b"\npipeline = "StableDiffusionPipeline"\nwidth = 64\nheight = 64\n'
NETS = SMALL + 'controlnets = ["a/net"]\n'
IMAGE = "sha256:" + "0" * 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two registries that differ in one key, and what is looked at."""

    before: str
    after: str
    seen: Callable[[Registry], object]


def spec(registry: Registry, **asked: Any) -> Any:
    return registry.resolve(Request.parse({"prompt": "a red star"} | asked), seed=1)


def drawn_as(registry: Registry) -> object:
    """What a picture is that says no more than its prompt."""
    return spec(registry)


def steered_as(registry: Registry) -> object:
    return spec(registry, control_images=[IMAGE])


def opened_as(registry: Registry) -> object:
    """Which weights a worker opens for a model, and whether it may share them."""
    model = registry["m"]
    assert isinstance(model, DiffusersModel)
    return model.base, model.parts, entry_hash(model)


def said(registry: Registry, **asked: Any) -> object:
    try:
        return [*remarks(spec(registry, **asked), registry["m"])]
    except BadSpecification as error:
        return str(error)


def wrong_files(registry: Registry) -> object:
    model = registry["m"]
    assert isinstance(model, DiffusersModel)
    return wrong_in_files(model)


def simulated(registry: Registry) -> object:
    """How long a step of two pictures takes, and what goes wrong in it; then once memory is saved."""
    model = registry["m"]
    assert isinstance(model, SimulatedModel)
    slept: list[float] = []
    found: list[object] = []
    loaded, before = LoadedSimulation(model), time.sleep
    time.sleep = lambda seconds: slept.append(round(float(seconds), 6))
    try:
        for _ in range(2):
            try:
                loaded.step([spec(registry), spec(registry, prompt="a blue dot")])
            except RenderFault as fault:
                found.append(type(fault).__name__)
            loaded.save_memory()
    finally:
        time.sleep = before
    return slept, found


def model(entry: str = "", *, head: str = SMALL) -> str:
    return f"[models.m]\n{head}{entry}\n"


def changes(key: str, value: str, *, seen: Callable[[Registry], object] = drawn_as, head: str = SMALL) -> Case:
    """A key of a model is given, or not."""
    kept = "".join(line for line in head.splitlines(keepends=True) if not line.startswith(f"{key} ="))
    return Case(before=model(head=head), after=model(f"{key} = {value}", head=kept), seen=seen)


SIMULATED = 'kind = "simulated"\n'
FAULT = SIMULATED + "fault = {{ {} }}\n"


def fault(before: str, after: str) -> Case:
    return Case(before=model(head=FAULT.format(before)), after=model(head=FAULT.format(after)), seen=simulated)


def net(entry: str) -> Case:
    """A ControlNet is a table in place of a source alone."""
    after = NETS.replace('["a/net"]', f"[{{ {entry} }}]")
    return Case(before=model(head=NETS), after=model(head=after), seen=opened_as)


def vae(before: str, after: str) -> Case:
    return Case(before=model(f"vae = {before}"), after=model(f"vae = {after}"), seen=opened_as)


def preview(before: str, after: str) -> Case:
    return Case(before=model(f"preview = {before}"), after=model(f"preview = {after}"), seen=opened_as)


def of_lora(registry: Registry) -> object:
    """What the door says of a picture with the LoRA, and which entry a worker reads."""
    try:
        check_loras(spec(registry, loras={"x": 1.0}), registry.loras, registry["m"])
    except BadSpecification as error:
        return str(error)
    return registry.loras["x"], wrong_in_header(registry.loras["x"], "StableDiffusionPipeline")


def of_embedding(registry: Registry) -> object:
    one = registry.embeddings["x"]
    return vectors_of(one), one.revision, said(registry, prompt="x " * 4)


def lora(before: str, after: str, *, table: str = "loras") -> Case:
    entry = f"{model()}[{table}.x]\n"
    return Case(before=entry + before, after=entry + after, seen=of_lora if table == "loras" else of_embedding)


TWO_MODELS = f"[models.m]\n{SMALL}[models.other]\n{SMALL}"

MODEL: Mapping[str, Case] = {
    "alias": Case(before=model(), after=model().replace("models.m", "models.n"), seen=lambda it: [*it.models]),
    "kind": Case(before="[models.m]\n" + SIMULATED, after=model(), seen=lambda it: type(it["m"])),
    "source": changes("source", '"other/repository"', seen=opened_as),
    "revision": changes("revision", '"abc"', seen=opened_as),
    "variant": changes("variant", '"fp16"', seen=opened_as),
    "config": Case(
        before=model(head='kind = "diffusers"\nsource = "of-nobody.safetensors"\n'),
        after=model('config = "CONFIG"', head='kind = "diffusers"\nsource = "of-nobody.safetensors"\n'),
        seen=lambda it: own_configuration(it["m"]),  # type: ignore[arg-type]
    ),
    "pipeline": changes("pipeline", '"StableDiffusionXLPipeline"', seen=lambda it: pipeline_of(it["m"])),  # type: ignore[arg-type]
    "batch_limit": changes("batch_limit", "3", seen=lambda it: it["m"].batch),
    "width": changes("width", "128"),
    "height": changes("height", "128"),
    "num_inference_steps": changes("num_inference_steps", "7"),
    "guidance_scale": changes("guidance_scale", "3.5"),
    "negative_prompt": changes("negative_prompt", '"blurry"'),
    "sampler": changes("sampler", '"euler"'),
    "eta": changes("eta", "0.5", head=SMALL + 'sampler = "ddim"\n'),
    "clip_skip": changes("clip_skip", "1"),
    "prompt_weighting": changes("prompt_weighting", '"compel"'),
    "long_prompts": changes("long_prompts", '"refuse"', seen=lambda it: said(it, prompt="star " * 90)),
    "controlnet_conditioning_scale": changes("controlnet_conditioning_scale", "[0.5]", head=NETS, seen=steered_as),
    "control_guidance_start": changes("control_guidance_start", "[0.2]", head=NETS, seen=steered_as),
    "control_guidance_end": changes("control_guidance_end", "[0.8]", head=NETS, seen=steered_as),
    "guess_mode": changes("guess_mode", "true", head=NETS, seen=steered_as),
    "prior_num_inference_steps": changes(
        "prior_num_inference_steps", "9", head=SMALL.replace("StableDiffusionPipeline", "KandinskyV22CombinedPipeline")
    ),
    "prior_guidance_scale": changes(
        "prior_guidance_scale", "2", head=SMALL.replace("StableDiffusionPipeline", "KandinskyV22CombinedPipeline")
    ),
    "distilled": changes("distilled", '"lightning"', seen=lambda it: (drawn_as(it), said(it, num_inference_steps=30))),
    "safety_checker": changes("safety_checker", "true", seen=opened_as),
    "vae": changes("vae", '"a/vae"', seen=opened_as),
    "preview": changes("preview", '"a/taesd"', seen=opened_as),
    "prediction_type": Case(
        before=model(head='kind = "diffusers"\nsource = "sd.safetensors"\n'),
        after=model('prediction_type = "v_prediction"', head='kind = "diffusers"\nsource = "sd.safetensors"\n'),
        seen=lambda it: own_configuration(it["m"]),  # type: ignore[arg-type]
    ),
    "zero_snr": Case(
        before=model('prediction_type = "v_prediction"', head='kind = "diffusers"\nsource = "sd.safetensors"\n'),
        after=model(
            'prediction_type = "v_prediction"\nzero_snr = true', head='kind = "diffusers"\nsource = "sd.safetensors"\n'
        ),
        seen=lambda it: own_configuration(it["m"]),  # type: ignore[arg-type]
    ),
    "controlnets": Case(before=model(), after=model(head=NETS), seen=lambda it: (said(it), opened_as(it))),
}

NET: Mapping[str, Case] = {
    "source": net('source = "a/other"'),
    "revision": net('source = "a/net", revision = "abc"'),
    "variant": net('source = "a/net", variant = "fp16"'),
    "config": net('source = "net.safetensors", config = "CONFIG"'),
}

VAE: Mapping[str, Case] = {
    "source": vae('"a/vae"', '"lora.safetensors"'),
    "revision": vae('"a/vae"', '{ source = "a/vae", revision = "abc" }'),
    "variant": vae('"a/vae"', '{ source = "a/vae", variant = "fp16" }'),
    "config": vae('"vae.safetensors"', '{ source = "vae.safetensors", config = "CONFIG" }'),
}

PREVIEW: Mapping[str, Case] = {
    "source": preview('"a/taesd"', '"a/other"'),
    "revision": preview('"a/taesd"', '{ source = "a/taesd", revision = "abc" }'),
    "variant": preview('"a/taesd"', '{ source = "a/taesd", variant = "fp16" }'),
}

LORAS: Mapping[str, Case] = {
    "alias": Case(
        before=f'{model()}[loras.x]\nsource = "a/b"', after=f'{model()}[loras.y]\nsource = "a/b"', seen=of_lora
    ),
    "source": lora('source = "a/b"', 'source = "lora.safetensors"'),
    "revision": lora('source = "a/b"', 'source = "a/b"\nrevision = "abc"'),
    "weight_name": lora('source = "two"', 'source = "two"\nweight_name = "one.safetensors"'),
    "models": Case(
        before=f'{TWO_MODELS}[loras.x]\nsource = "a/b"',
        after=f'{TWO_MODELS}[loras.x]\nsource = "a/b"\nmodels = ["other"]',
        seen=of_lora,
    ),
}

EMBEDDINGS: Mapping[str, Case] = {
    "alias": Case(
        before=f'{model()}[embeddings.x]\nsource = "words.safetensors"',
        after=f'{model()}[embeddings.y]\nsource = "words.safetensors"',
        seen=lambda it: [*it.embeddings],
    ),
    "source": lora('source = "words.safetensors"', 'source = "lora.safetensors"', table="embeddings"),
    "revision": lora('source = "a/b"', 'source = "a/b"\nrevision = "abc"', table="embeddings"),
    "weight_name": lora('source = "two"', 'source = "two"\nweight_name = "one.safetensors"', table="embeddings"),
    "models": Case(
        before=f'{TWO_MODELS}[embeddings.cat]\nsource = "words.safetensors"',
        after=f'{TWO_MODELS}[embeddings.cat]\nsource = "words.safetensors"\nmodels = ["other"]',
        seen=lambda it: [*remarks(spec(it, prompt="a cat"), it["m"], it.embeddings)],
    ),
}

SIMULATION: Mapping[str, Case] = {
    "seconds_per_step": changes("seconds_per_step", "0.5", head=SIMULATED, seen=simulated),
    "seconds_per_step_and_picture": changes("seconds_per_step_and_picture", "0.5", head=SIMULATED, seen=simulated),
    "fault": changes("fault", '{ kind = "error" }', head=SIMULATED, seen=simulated),
}

FAULTS: Mapping[str, Case] = {
    "kind": fault('kind = "error"', 'kind = "out of memory"'),
    "prompt": fault('kind = "error"', 'kind = "error", prompt = "green"'),
    "spares_batches_of": fault('kind = "error"', 'kind = "error", spares_batches_of = 2'),
    "spares_frugal": fault('kind = "error"', 'kind = "error", spares_frugal = true'),
    "seconds": fault('kind = "hang", seconds = 1', 'kind = "hang", seconds = 2'),
}

WHOLE: Mapping[str, Case] = {
    "default": Case(before=TWO_MODELS, after=f'default = "other"\n{TWO_MODELS}', seen=drawn_as),
    "builtin": Case(before=model(), after=f"builtin = true\n{model()}", seen=lambda it: [*it.models]),
    "models": Case(before=model(), after=TWO_MODELS, seen=lambda it: [*it.models]),
    "loras": Case(before=model(), after=f'{model()}[loras.x]\nsource = "a/b"', seen=lambda it: [*it.loras]),
    "loras.folder": Case(before=model(), after=f'{model()}[loras]\nfolder = "two"', seen=lambda it: [*it.loras]),
    "embeddings": Case(
        before=model(), after=f'{model()}[embeddings.x]\nsource = "a/b"', seen=lambda it: [*it.embeddings]
    ),
}

TABLES = {
    "model": MODEL,
    "controlnets": NET,
    "vae": VAE,
    "preview": PREVIEW,
    "loras": LORAS,
    "embeddings": EMBEDDINGS,
    "simulated": SIMULATION,
    "fault": FAULTS,
    "whole": WHOLE,
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, tensors in (("sd", SD), ("lora", LORA), ("of-nobody", {**SDXL, "first_stage_model.x": (1,)})):
        written(folder / f"{name}.safetensors", tensors)
    written(folder / "words.safetensors", {"emb_params": (3, 768)})
    (folder / "two").mkdir()
    for name in ("one", "other"):
        written(folder / "two" / f"{name}.safetensors", {"emb_params": (2, 768)})
    (folder / "config").mkdir()
    (folder / "config/model_index.json").write_text('{"_class_name": "StableDiffusionPAGPipeline"}')
    return folder


def test_every_key_has_a_case() -> None:
    common = set(DiffusersModel.model_fields) & set(SimulatedModel.model_fields)
    assert set(MODEL) == set(DiffusersModel.model_fields) - set(Running.model_fields)
    assert set(SIMULATION) == set(SimulatedModel.model_fields) - common
    assert set(NET) == set(VAE) == set(Weights.model_fields)
    assert set(PREVIEW) == set(Weights.model_fields) - {"config"}  # of single files, which are refused
    assert set(LORAS) == set(Lora.model_fields)
    assert set(EMBEDDINGS) == set(Embedding.model_fields)
    assert set(FAULTS) == set(SimulatedFault.model_fields)
    assert {key.partition(".")[0] for key in WHOLE} == {"default", "builtin", "models", "loras", "embeddings"}


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, cases in TABLES.items() for key in cases])
def test_another_value_changes_what_comes_of_it(shelf: Path, table: str, key: str) -> None:
    case = TABLES[table][key]
    found = [
        case.seen(parse_registry(text.replace("CONFIG", str(shelf / "config")), where="here", folder=shelf))
        for text in (case.before, case.after)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize("table", ["models.m", "loras.x", "embeddings.x"])
def test_a_key_that_there_is_not_is_refused_by_name(table: str) -> None:
    text = f'builtin = true\n[{table}]\nsource = "a/b"\n' + ('kind = "diffusers"\n' if "models" in table else "")
    parse_registry(text, where="here")
    with pytest.raises(BadSettings, match=rf"\[{table}\] colour: unknown field"):
        parse_registry(f'{text}colour = "red"\n', where="here")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('{ source = "a/taesd", config = "a/config" }', "preview.*config is a key of single safetensors files"),
        ('"taesd.safetensors"', "preview: a single file; name a folder or repository"),
        (
            '{ source = "taesd.safetensors", config = "a/config" }',
            "preview: a single file; name a folder or repository",
        ),
    ],
)
def test_a_decoder_for_previews_is_no_single_file_and_takes_no_configuration_of_one(given: str, says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        parse_registry(model(f"preview = {given}"), where="here")


def test_defaults_of_controls_are_those_that_the_pipeline_takes() -> None:
    registry = parse_registry(model("guess_mode = true"), where="here")
    one = registry["m"]
    assert isinstance(one, DiffusersModel)
    assert "guess_mode" not in (taken_controls(one) or ())
    with pytest.raises(BadSpecification, match="guess_mode: the model m has no ControlNet"):
        spec(registry)
    assert wrong_files(registry) is None
