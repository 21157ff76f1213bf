"""Finished pictures of other programs, each in the format that it writes: what is taken over, and what is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.picture_files import MadeBy, read_picture
from tests.unit.test_json_of_other_tools import LAYER, LORA, METADATA, OF_THE_GRAPH, graph
from tests.unit.test_picture_files import png


def read(folder: Path, **texts: str) -> MadeBy:
    return read_picture(png(folder / "a.png", **texts))


# -- the web UI and its kin ----------------------------------------------------------------------------------------

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768, Model: shapes"
OF_SETTINGS = {
    "negative_prompt": "",
    "num_inference_steps": 20,
    "sampler": "euler a",
    "guidance_scale": 7.0,
    "seed": 5,
    "width": 512,
    "height": 768,
    "model": "shapes",
}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (f"a cat\n{SETTINGS}", {"prompt": "a cat"}),
        # Lines and empty lines belong to the prompt; so does what looks like settings in it.
        (f"a cat,\n\nby night\n{SETTINGS}", {"prompt": "a cat,\n\nby night"}),
        (f"a\r\nb\r\nNegative prompt: c\r\n{SETTINGS}", {"prompt": "a\nb", "negative_prompt": "c"}),
        (
            f"a\nNegative prompt: b\nSteps: 3, c\nNegative prompt: d\n{SETTINGS}",
            {"prompt": "a", "negative_prompt": "b\nSteps: 3, c\nNegative prompt: d"},
        ),
        (f"Negative prompt: b\n{SETTINGS}", {"negative_prompt": "b"}),
        # The first releases had the schedule in the sampler's name.
        (f"a\n{SETTINGS.replace('Euler a', 'DPM++ 2M Karras')}", {"prompt": "a", "sampler": "dpm++ 2m karras"}),
        (f"a\n{SETTINGS}, Schedule type: SGM Uniform", {"prompt": "a", "sampler": "euler a sgm uniform"}),
        (
            f"a (b:1.2) <lora:Ink:0.5>\n{SETTINGS}",
            {"prompt": "a (b:1.2)", "prompt_weighting": "webui", "loras": {"ink": 0.5}},
        ),
        (f"a\n{SETTINGS}, Clip skip: 2", {"prompt": "a", "clip_skip": 1}),
        (f"a\n{SETTINGS.replace('Euler a', 'DDIM')}, Eta: 0.5", {"prompt": "a", "sampler": "ddim", "eta": 0.5}),
        # Forge: the guidance that FLUX.1-dev is told.
        (
            f"a\n{SETTINGS.replace('CFG scale: 7', 'CFG scale: 1')}, Distilled CFG Scale: 3.5",
            {"prompt": "a", "guidance_scale": 3.5},
        ),
        # SD.Next has another order, and a default sampler.
        (
            "a\nSteps: 20, Size: 512x768, Sampler: Default, Seed: 5, CFG scale: 7, Model: shapes, App: SD.Next",
            {"prompt": "a", "sampler": None},
        ),
    ],
)
def test_texts_of_the_web_uis_kin_are_read(tmp_path: Path, text: str, fields: dict[str, Any]) -> None:
    made = read(tmp_path, parameters=text)
    assert made.program == "the web UI"
    assert made.fields == {name: value for name, value in {**OF_SETTINGS, **fields}.items() if value is not None}
    assert made.left.not_done == {}
    assert set(made.left.unfit) <= {"prompt"}


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ('Lora hashes: "ink: 0a1b, oil: 2c3d"', "Lora hashes", "ink: 0a1b, oil: 2c3d"),
        (r'Note: "a \"b\", \\ c: d"', "Note", r'a "b", \ c: d'),
        (r'Note: "a\nb ☆"', "Note", "a\nb ☆"),
        ('Hashes: {"model": "0a1b", "lora:ink": "2c3d"}', "Hashes", '{"model": "0a1b", "lora:ink": "2c3d"}'),
        ('Resources: [{"a": 1}, {"b": "x, y"}]', "Resources", '[{"a": 1}, {"b": "x, y"}]'),
        ("Note: a: b", "Note", "a: b"),
        ("Created Date: 2024-01-31T10:20:30.5Z", "Created Date", "2024-01-31T10:20:30.5Z"),
        ('Note: "unfinished', "Note", '"unfinished'),
        ("seed_resize: 7", "seed_resize", "7"),
        ("labels: x", "labels (setting)", "x"),
    ],
)
def test_values_have_commas_quotes_and_lines_as_they_were_written(
    tmp_path: Path, setting: str, name: str, value: str
) -> None:
    made = read(tmp_path, parameters=f"a\n{SETTINGS}, {setting}, Version: v1.10.1")
    assert made.left.unread == {name: value, "Version": "v1.10.1"}


def test_what_shaped_a_picture_and_is_not_done_here_is_told_by_name(tmp_path: Path) -> None:
    unit = "Module: canny, Model: control_canny [0a1b2c3d], Weight: 1"
    beside = f'Hires upscale: 2, ControlNet 0: "{unit}", Denoising strength: 0.4, ADetailer model: face'
    made = read(tmp_path, parameters=f"a\n{SETTINGS}, Eta: 0.67, {beside}")
    assert made.left.not_done == {
        "Hires upscale": "2",
        "ControlNet 0": unit,
        "Denoising strength": "0.4",
        "ADetailer model": "face",
        # Of an ancestral sampler.
        "Eta": "0.67",
    }
    assert made.fields == {"prompt": "a", **OF_SETTINGS}


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        (SETTINGS.replace("Euler a", "Restart"), "sampler", "Euler a comes close"),
        (SETTINGS.replace("Euler a", "Unheard of"), "sampler", "is not a sampler; expected one of"),
        (f"{SETTINGS}, Schedule type: KL Optimal", "sampler", "KL Optimal is not supported"),
        (SETTINGS.replace("512", "500"), "width", "must be a multiple of 8, such as 496 or 504"),
        (SETTINGS.replace("512x768", "large"), "size", "must be WIDTHxHEIGHT"),
        (SETTINGS.replace("Seed: 5", "Seed: x"), "seed", "must be a valid integer"),
        (SETTINGS.replace("Steps: 20", "Steps: 2000"), "num_inference_steps", "1000"),
        (f"{SETTINGS}, Clip skip: 0", "clip_skip", "must be at least 1"),
    ],
)
def test_a_field_that_the_farm_cannot_take_is_asked_for_and_the_others_taken(
    tmp_path: Path, text: str, field: str, why: str
) -> None:
    made = read(tmp_path, parameters=f"a\n{text}")
    assert made.left.unfit.keys() == {field}
    assert why in made.left.unfit[field]
    assert made.request.prompt == "a"
    assert made.fields.keys() >= (OF_SETTINGS.keys() - {field, "width", "height"})


@pytest.mark.parametrize("prompt", ["<hypernet:x:1>", "a <lora:x:0.5:0.7>", "a (b:1.2.3)"])
def test_a_prompt_that_cannot_be_drawn_is_asked_for(tmp_path: Path, prompt: str) -> None:
    made = read(tmp_path, parameters=f"{prompt}\n{SETTINGS}")
    assert made.left.unfit.keys() == {"prompt"}
    assert made.fields == {name: value for name, value in OF_SETTINGS.items() if name != "negative_prompt"}


def test_what_a_sampler_does_not_do_of_its_name_is_told(tmp_path: Path) -> None:
    made = read(tmp_path, parameters=f"a\n{SETTINGS.replace('Euler a', 'LCM')}, Schedule type: Karras")
    assert (made.request.sampler, made.left.unfit) == ("lcm", {})
    assert made.left.not_done == {"Schedule type": "ignored; LCM has timesteps of its own"}


def test_lines_behind_the_settings_are_told(tmp_path: Path) -> None:
    made = read(tmp_path, parameters=f"a\n{SETTINGS}\nTemplate: a {{b|c}}")
    assert made.left.unread == {"behind the settings": "Template: a {b|c}"}


# -- ComfyUI -------------------------------------------------------------------------------------------------------


def of_graph(folder: Path, **changes: Any) -> MadeBy:
    return read(folder, prompt=json.dumps(graph(**changes)), workflow="{}")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


ADVANCED = node(
    "KSamplerAdvanced",
    add_noise="enable",
    noise_seed=7,
    steps=20,
    cfg=8,
    sampler_name="euler",
    scheduler="normal",
    start_at_step=0,
    end_at_step=10000,
    return_with_leftover_noise="disable",
    model=["4", 0],
    positive=["6", 0],
    negative=["7", 0],
    latent_image=["5", 0],
)
FLUX: dict[str, Any] = {
    "n3": node(
        "SamplerCustomAdvanced",
        noise=["20", 0],
        guider=["21", 0],
        sampler=["22", 0],
        sigmas=["23", 0],
        latent_image=["5", 0],
    ),
    "n4": node("UNETLoader", unet_name="flux\\shapes.safetensors", weight_dtype="default"),
    "n5": node("EmptySD3LatentImage", width=512, height=768, batch_size=1),
    "n6": node("CLIPTextEncode", text="a cat", clip=["25", 0]),
    "n7": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    "n8": node("VAEDecode", samples=["3", 0], vae=["26", 0]),
    "n20": node("RandomNoise", noise_seed=7),
    "n21": node("BasicGuider", model=["4", 0], conditioning=["7", 0]),
    "n22": node("KSamplerSelect", sampler_name="euler"),
    "n23": node("BasicScheduler", scheduler="simple", steps=20, denoise=1, model=["4", 0]),
    "n25": node("DualCLIPLoader", clip_name1="t5xxl.safetensors", clip_name2="clip_l.safetensors", type="flux"),
    "n26": node("VAELoader", vae_name="ae.safetensors"),
}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, {}),
        ({"n3": ADVANCED}, {}),
        (FLUX, {"sampler": "euler simple", "guidance_scale": 3.5, "negative_prompt": None}),
        ({"n10": LORA, "n3__model": ["10", 0]}, {"loras": {"ink": 0.5}}),
        ({"n11": LAYER, "n6__clip": ["11", 0], "n7__clip": ["11", 0]}, {"clip_skip": 1}),
        # Weights are the web UI's here, where square brackets would be weights, too.
        ({"n6__text": "a (red:1.3) [cat]"}, {"prompt": r"a (red:1.3) \[cat\]", "prompt_weighting": "webui"}),
        ({"n6__text": "(red:1.3) AND blue"}, {"prompt": "(red:1.3) and blue", "prompt_weighting": "webui"}),
        ({"n6__text": r"a cat \(red\)"}, {"prompt": "a cat (red)"}),
        ({"n7": node("ConditioningZeroOut", conditioning=["6", 0])}, {"negative_prompt": ""}),
        ({"n6__text": ["20", 0], "n20": node("PrimitiveString", value="a star")}, {"prompt": "a star"}),
        ({"n3__seed": ["20", 0], "n20": node("Seed Everywhere", seed=9)}, {"seed": 9}),
        ({"n6": node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a cat", width=1024, clip=["4", 1])}, {}),
    ],
)
def test_graphs_are_read_from_their_sampler_on(tmp_path: Path, changes: Any, fields: dict[str, Any]) -> None:
    made = of_graph(tmp_path, **changes)
    assert made.program == "ComfyUI"
    assert made.fields == {name: value for name, value in {**OF_THE_GRAPH, **fields}.items() if value is not None}
    assert (made.left.unfit, made.left.not_done) == ({}, {})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n3__denoise": 0.5}, "node 3: denoise"),
        ({"n3": {**ADVANCED, "inputs": {**ADVANCED["inputs"], "end_at_step": 15}}}, "node 3: end_at_step"),
        ({"n12": node("ImageUpscaleWithModel", image=["8", 0])}, "node 12 (ImageUpscaleWithModel)"),
        (
            {"n12": {**graph()["3"], "inputs": {**graph()["3"]["inputs"], "latent_image": ["3", 0]}}},
            "node 12 (KSampler)",
        ),
        ({"n3__model": ["12", 0], "n12": node("FreeU_V2", b1=1.3, model=["4", 0])}, "node 12 (FreeU_V2)"),
        (
            {
                "n3__positive": ["12", 0],
                "n12": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1),
            },
            "node 12 (ControlNetApplyAdvanced)",
        ),
        ({"n5__batch_size": 4}, "node 5: batch_size"),
        (
            {"n10": {**LORA, "inputs": {**LORA["inputs"], "strength_clip": 1}}, "n3__model": ["10", 0]},
            "node 10: strength_clip",
        ),
        ({"n3__seed": 2**64 - 5}, f"seed {2**64 - 5}"),
        ({"n6": node("CLIPTextEncodeSDXL", text_g="a cat", text_l="oil", clip=["4", 1])}, "node 6: text_l"),
    ],
)
def test_what_a_graph_does_beside_is_told_by_its_node(tmp_path: Path, changes: Any, told: str) -> None:
    made = of_graph(tmp_path, **changes)
    assert made.left.not_done.keys() == {told}
    assert made.left.unfit == {}
    assert made.request.prompt == "a cat"


def test_seeds_of_64_bits_are_those_of_the_same_noise(tmp_path: Path) -> None:
    seed = of_graph(tmp_path, n3__seed=2**64 - 5).request.seed
    assert seed is not None
    assert seed % 2**32 == (2**64 - 5) % 2**32


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"n3__sampler_name": "uni_pc"}, "sampler", "dpmpp_2m comes close"),
        ({"n3__seed": ["99", 0]}, "seed", "must stand in the node"),
        ({"n3__positive": ["99", 0]}, "prompt", "comes from no node"),
        ({"n3__positive": ["5", 0]}, "prompt", "no text leads to"),
        ({"n3__latent_image": ["6", 0]}, "size", r"node 6 (CLIPTextEncode) has none"),
        ({"n5__width": 500}, "width", "multiple of 8"),
    ],
)
def test_what_a_graph_does_not_say_is_asked_for(tmp_path: Path, changes: Any, field: str, why: str) -> None:
    made = of_graph(tmp_path, **changes)
    assert why in made.left.unfit[field]


def test_of_a_picture_with_both_the_shorter_text_is_read(tmp_path: Path) -> None:
    made = read(tmp_path, parameters=f"a star\n{SETTINGS}", prompt=json.dumps(graph()))
    assert (made.program, made.request.prompt) == ("the web UI", "a star")


# -- InvokeAI, SwarmUI, Fooocus, NovelAI ---------------------------------------------------------------------------


def test_what_invokeai_did_beside_is_told(tmp_path: Path) -> None:
    beside = {"controlnets": [{"image": "x"}], "hrf_enabled": True, "scheduler": "dpmpp_3m"}
    made = read(tmp_path, invokeai_metadata=json.dumps({**METADATA, **beside}))
    assert made.left.not_done == {"controlnets": [{"image": "x"}], "hrf_enabled": True}
    assert made.left.unfit.keys() == {"sampler"}
    assert made.fields == {
        "prompt": "a cat", "negative_prompt": "a dog", "model": "shapes", "width": 512, "height": 768,
        "num_inference_steps": 30, "guidance_scale": 7.5, "seed": 7,
    }  # fmt: skip


OLD_INVOKEAI = {
    "model": "stable diffusion", "model_weights": "shapes", "model_hash": "0a1b",
    "image": {
        "prompt": [{"prompt": "a cat [a dog] by night", "weight": 1.0}], "steps": 20, "cfg_scale": 7.0, "threshold": 0,
        "width": 512, "height": 768, "seed": 5, "sampler": "k_euler_a", "type": "txt2img",
    },
}  # fmt: skip
SWARM = {
    "sui_image_params": {
        "prompt": "a cat", "negativeprompt": "a dog", "model": "sd/shapes.safetensors", "seed": 5, "steps": 20,
        "cfgscale": 7.0, "width": 512, "height": 768, "sampler": "euler", "scheduler": "karras", "loras": ["sd/Ink"],
        "loraweights": ["0.5"], "swarm_version": "0.9.5", "refinermethod": "PostApply",
    },
}  # fmt: skip
FOOOCUS = {
    "prompt": "a cat", "negative_prompt": "a dog", "prompt_expansion": "", "styles": "['Fooocus V2']", "steps": 30,
    "resolution": "(512, 768)", "guidance_scale": 4.0, "sharpness": 2.0, "adm_guidance": "", "base_model": "shapes",
    "base_model_hash": "0a1b", "refiner_model": "None", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras",
    "seed": "5", "loras": [["ink.safetensors", 0.5, "2c3d"]], "version": "Fooocus v2.5.5",
}  # fmt: skip
NOVELAI = {
    "prompt": "a {cat}", "uc": "a dog", "steps": 28, "scale": 5.0, "seed": 5, "width": 512, "height": 768,
    "sampler": "k_dpmpp_2m", "noise_schedule": "karras", "sm": False, "cfg_rescale": 0.4, "n_samples": 1,
}  # fmt: skip
COMMON = {"prompt": "a cat", "negative_prompt": "a dog", "width": 512, "height": 768, "seed": 5}


@pytest.mark.parametrize(
    ("texts", "program", "fields", "not_done"),
    [
        (
            {"sd-metadata": OLD_INVOKEAI},
            "InvokeAI",
            {
                "prompt": "a cat by night",
                "model": "shapes",
                "num_inference_steps": 20,
                "guidance_scale": 7.0,
                "sampler": "euler a",
            },
            set(),
        ),
        (
            {"parameters": SWARM},
            "SwarmUI",
            {
                "model": "shapes",
                "num_inference_steps": 20,
                "guidance_scale": 7.0,
                "sampler": "euler karras",
                "loras": {"ink": 0.5},
            },
            {"refinermethod"},
        ),
        (
            {"parameters": FOOOCUS, "fooocus_scheme": "fooocus"},
            "Fooocus",
            {
                "model": "shapes",
                "num_inference_steps": 30,
                "guidance_scale": 4.0,
                "sampler": "dpm++ 2m sde karras",
                "loras": {"ink": 0.5},
            },
            {"styles", "sharpness"},
        ),
        (
            {"Comment": NOVELAI, "Description": "a {cat}", "Software": "NovelAI", "Source": "Diffusion 0A1B"},
            "NovelAI",
            {"prompt": "a {cat}", "num_inference_steps": 28, "guidance_scale": 5.0, "sampler": "dpm++ 2m karras"},
            {"weights of the prompt", "cfg_rescale"},
        ),
    ],
)
def test_what_other_programs_say_is_taken_over(
    tmp_path: Path, texts: dict[str, Any], program: str, fields: dict[str, Any], not_done: set[str]
) -> None:
    written = {name: said if isinstance(said, str) else json.dumps(said) for name, said in texts.items()}
    made = read(tmp_path, **written)
    assert made.program == program
    assert made.fields == {**COMMON, **fields}
    assert made.left.not_done.keys() == not_done
    assert made.left.unfit == {}
