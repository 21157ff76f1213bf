"""Objects of JSON in which other tools say how a picture was made: read where they are plain, else refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.requests import SourcedRequest
from storage.errors import BadSpecification


def read(folder: Path, value: Any, *, name: str = "a.json", indent: int | None = 1) -> list[SourcedRequest]:
    path = folder / name
    path.write_text(json.dumps(value, indent=indent))
    return list(read_manifest(manifest(path)))


def asked(folder: Path, value: Any, **how: Any) -> list[dict[str, Any]]:
    return [one.request.model_dump(exclude_none=True) for one in read(folder, value, **how)]


# -- the web UI ------------------------------------------------------------------------------------------------


def text(seed: int, clip_skip: int) -> str:
    return (
        f"a (red:1.2) cat <lora:Ink:0.5>\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7.0, "
        f"Seed: {seed}, Size: 512x768, Model: shapes, Clip skip: {clip_skip}, Version: v1.10.1"
    )


INFO = {
    "prompt": "a (red:1.2) cat <lora:Ink:0.5>",
    "all_prompts": ["a (red:1.2) cat <lora:Ink:0.5>"] * 2,
    "negative_prompt": "dog",
    "seed": 5,
    "all_seeds": [5, 6],
    "sampler_name": "Euler a",
    "cfg_scale": 7.0,
    "steps": 20,
    "width": 512,
    "height": 768,
    "infotexts": [text(5, 2), text(6, 1)],
    "clip_skip": 2,
}
PICTURE = {
    "prompt": "a (red:1.2) cat",
    "prompt_weighting": "webui",
    "negative_prompt": "dog",
    "loras": {"ink": 0.5},
    "num_inference_steps": 20,
    "sampler": "euler a",
    "guidance_scale": 7.0,
    "width": 512,
    "height": 768,
    "model": "shapes",
    "labels": {"Version": "v1.10.1"},
}


@pytest.mark.parametrize("how", [{}, {"name": "a.txt"}, {"name": "a.jsonl", "indent": None}])
def test_the_web_uis_info_asks_for_each_of_its_pictures_in_its_own_counting(tmp_path: Path, how: Any) -> None:
    """Of layers, the web UI counts the one that is used: its 2 skips one, its 1 none."""
    wanted = [{**PICTURE, "seed": 5, "clip_skip": 1}, {**PICTURE, "seed": 6}]
    assert asked(tmp_path, INFO, **how) == wanted
    answer = {"images": ["aGk="], "parameters": {"steps": 20}, "info": json.dumps(INFO)}
    assert asked(tmp_path, answer, **how) == wanted
    assert asked(tmp_path, {"info": text(6, 1), "items": {}, "parameters": {}}, **how) == wanted[1:]


@pytest.mark.parametrize("name", ["Clip skip", "clipSkip", "ClipSkip", "clip-skip", "CLIP_SKIP"])
def test_layers_in_anothers_spelling_are_asked_about(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSpecification, match=f"the column {name} may count as the web UI does"):
        asked(tmp_path, {"prompt": "a", name: 2})
    assert asked(tmp_path, {"prompt": "a", "clip_skip": 2}) == [{"prompt": "a", "clip_skip": 2}]


# -- ComfyUI ---------------------------------------------------------------------------------------------------


def graph(**changes: Any) -> dict[str, Any]:
    """The graph that ComfyUI begins with; `changes`: `n3__denoise=0.5` sets an input of node 3."""
    sampler = {"seed": 7, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    nodes: dict[str, Any] = {
        "3": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\shapes.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
    }
    for place, value in changes.items():
        node, _, given = place.removeprefix("n").partition("__")
        if given:
            nodes[node]["inputs"][given] = value
        else:
            nodes[node] = value
    return nodes


OF_THE_GRAPH = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "model": "shapes",
    "width": 512,
    "height": 768,
    "num_inference_steps": 20,
    "guidance_scale": 8.0,
    "sampler": "euler uniform",
    "seed": 7,
}
LORA: dict[str, Any] = {
    "class_type": "LoraLoader",
    "inputs": {
        "lora_name": "Ink.safetensors",
        "strength_model": 0.5,
        "strength_clip": 0.5,
        "model": ["4", 0],
        "clip": ["4", 1],
    },
}
LAYER: dict[str, Any] = {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["4", 1]}}


def test_a_plain_graph_of_comfyuis_is_read(tmp_path: Path) -> None:
    assert asked(tmp_path, graph()) == [OF_THE_GRAPH]
    assert asked(tmp_path, {"prompt": graph(), "client_id": "x"}, name="a.jsonl", indent=None) == [OF_THE_GRAPH]
    assert asked(tmp_path, [graph(), {"prompt": "a star"}]) == [OF_THE_GRAPH, {"prompt": "a star"}]
    assert [one.copies for one in read(tmp_path, [graph(), graph(n5__batch_size=3)])] == [None, 3]
    [letters] = asked(tmp_path, graph(n6__text=r"a cat \(red\)"))
    assert letters["prompt"] == "a cat (red)"


@pytest.mark.parametrize(
    ("sampler", "schedule", "ours"),
    [
        ("euler_ancestral", "normal", "euler a uniform"),
        ("dpmpp_2m", "karras", "dpm++ 2m karras"),
        ("dpmpp_2m_sde_gpu", "sgm_uniform", "dpm++ 2m sde sgm uniform"),
        ("dpm_2_ancestral", "beta", "dpm2 a beta timesteps"),
        # Without η its DDIM is Euler.
        ("ddim", "ddim_uniform", "euler ddim uniform"),
    ],
)
def test_samplers_of_comfyuis_are_ours(tmp_path: Path, sampler: str, schedule: str, ours: str) -> None:
    [found] = asked(tmp_path, graph(n3__sampler_name=sampler, n3__scheduler=schedule))
    assert found["sampler"] == ours


def test_loras_and_layers_of_a_graph_are_read(tmp_path: Path) -> None:
    loaded = {"n10": LORA, "n3__model": ["10", 0], "n6__clip": ["10", 1], "n7__clip": ["10", 1]}
    assert asked(tmp_path, graph(**loaded)) == [{**OF_THE_GRAPH, "loras": {"ink": 0.5}}]
    assert asked(tmp_path, graph(n11=LAYER, n6__clip=["11", 0], n7__clip=["11", 0])) == [
        {**OF_THE_GRAPH, "clip_skip": 1}
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n3__denoise": 0.5}, "node 3: denoise below 1"),
        ({"n3__sampler_name": "uni_pc"}, "node 3: uni_pc with the schedule normal is not supported.* dpmpp_2m comes"),
        ({"n3__sampler_name": "dpmpp_2s_ancestral"}, "node 3: dpmpp_2s_.* DPM\\+\\+ SDE Karras comes close"),
        ({"n3__sampler_name": "magic"}, "node 3: magic with the schedule normal is not supported; these are"),
        ({"n3__scheduler": "linear_quadratic"}, "node 3: euler with the schedule linear_quadratic is not supported"),
        ({"n3__seed": ["20", 0]}, "node 3: seed must stand in the node"),
        ({"n3__positive": ["99", 0]}, "node 3: its input positive comes from no node"),
        ({"n3__positive": ["5", 0]}, "node 3: its input positive comes from EmptyLatentImage; CLIPTextEncode is read"),
        ({"n6__text": "a (red:1.3) cat"}, r"node 6: \( in its text is computed in ComfyUI's own way"),
        ({"n6__text": "embedding:ink, a cat"}, "node 6: embedding: in its text"),
        ({"n5__batch_size": 2.5}, "node 5: batch_size must be a whole number"),
        ({"n10": {"class_type": "ControlNetApply", "inputs": {}}}, r"node 10 \(ControlNetApply\) is not read"),
        ({"n10": graph()["3"]}, "2 nodes of KSampler"),
        ({"n10": LORA, "n3__model": ["10", 0]}, "for some of its parts only"),
        ({"n11": LAYER, "n6__clip": ["11", 0]}, "for some of its parts only"),
        (
            {"n10": {**LORA, "inputs": {**LORA["inputs"], "model": ["10", 0]}}, "n3__model": ["10", 0]},
            "leads to itself",
        ),
        ({"n4__ckpt_name": None}, "node 4: ckpt_name must stand in the node"),
    ],
)
def test_what_a_graph_does_beside_is_refused_by_its_node(tmp_path: Path, changes: Any, says: str) -> None:
    with pytest.raises(BadSpecification, match=rf"a.json row 1 \(line 1\): ComfyUI's .*{says}"):
        read(tmp_path, graph(**changes))


# -- InvokeAI --------------------------------------------------------------------------------------------------

METADATA = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "a dog",
    "width": 512,
    "height": 768,
    "seed": 7,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0.0,
    "steps": 30,
    "scheduler": "euler_a",
    "clip_skip": 0,
    "model": {"key": "k", "name": "shapes", "base": "sd-1"},
    "controlnets": [],
    "loras": [],
}
OF_METADATA = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "model": "shapes",
    "width": 512,
    "height": 768,
    "num_inference_steps": 30,
    "guidance_scale": 7.5,
    "sampler": "euler a",
    "seed": 7,
    "labels": {"app_version": "4.2.0", "rand_device": "cpu"},
}


def test_metadata_of_invokeais_is_read(tmp_path: Path) -> None:
    assert asked(tmp_path, METADATA) == [OF_METADATA]
    loras = [{"model": {"name": "Ink"}, "weight": 0.5}, {"lora": {"model_name": "oil"}, "weight": 1}]
    other = {"clip_skip": 1, "scheduler": "dpmpp_2m_k", "loras": loras, "positive_prompt": "a red++ cat"}
    assert asked(tmp_path, {**METADATA, **other}) == [
        {
            **OF_METADATA,
            "clip_skip": 1,
            "sampler": "dpm++ 2m karras",
            "loras": {"ink": 0.5, "oil": 1.0},
            "prompt": "a red++ cat",
            "prompt_weighting": "compel",
        }
    ]
    assert asked(tmp_path, {**METADATA, "model": {"model_name": "shapes"}}) == [OF_METADATA]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"controlnets": [{"image": "x"}]}, "controlnets: this part of InvokeAI's is not supported"),
        ({"generation_mode": "img2img"}, "generation_mode: "),
        ({"vae": {"name": "other"}}, "vae: "),
        ({"cfg_rescale_multiplier": 0.7}, "cfg_rescale_multiplier: "),
        ({"hrf_enabled": True}, "hrf_enabled: "),
        ({"positive_style_prompt": "oil"}, "positive_style_prompt: "),
        ({"scheduler": "dpmpp_3m"}, "scheduler: dpmpp_3m is not supported"),
        ({"loras": [{"weight": 1}]}, "loras: each must have a name"),
    ],
)
def test_what_invokeai_does_beside_is_refused_by_its_field(tmp_path: Path, changes: Any, says: str) -> None:
    with pytest.raises(BadSpecification, match=rf"a.json row 1 \(line 1\): {says}"):
        read(tmp_path, {**METADATA, **changes})


# -- others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"nodes": [{"id": 6, "type": "CLIPTextEncode"}], "links": []}, r"a workflow of ComfyUI's.*Export \(API\)"),
        ({"prompt": "a", "alwayson_scripts": {}}, "a request of the web UI's API; POST it to /sdapi/v1/txt2img"),
        ({"prompt": "a", "use_stable_diffusion_model": "x", "clip_skip": True}, "Easy Diffusion's metadata"),
        ({"Prompt": "a", "Fooocus V2 Expansion": "a, cinematic", "Styles": "[]"}, "Fooocus's log"),
        ({"prompt": "a", "adm_guidance": "(1.5, 0.8, 0.3)", "loras": []}, "Fooocus's log"),
        ({"c": "a", "uc": "b", "seed_mode": "Scale Alike"}, "Draw Things' metadata"),
        ({"prompt": "a", "uc": "b", "scale": 11, "steps": 28}, "NovelAI's metadata, whose uc is the negative prompt"),
        ({"sui_image_params": {"prompt": "a"}}, "SwarmUI's metadata"),
        ({"name": "x", "nodes": [], "edges": []}, "a workflow of InvokeAI's"),
        ({"0a1b": {"prompt": [1, "0a1b", graph()], "outputs": {}}}, "the history of ComfyUI's"),
        ({"custom_id": "1", "method": "POST", "url": "/v1", "body": {"prompt": "a"}}, "a line of OpenAI's batches"),
        ({"version": "x", "input": {"prompt": "a"}}, "a request of Replicate's API"),
        ({"prompt": "a", "all_prompts": ["a"], "clip_skip": 2}, "infotexts: missing"),
    ],
)
def test_what_other_tools_write_is_refused_by_name(tmp_path: Path, value: Any, says: str) -> None:
    for name, where in (("a.json", r"row 1 \(line 1\)"), ("a.jsonl", "line 1"), ("a.txt", "line 1")):
        with pytest.raises(BadSpecification, match=f"{name} {where}: .*{says}"):
            read(tmp_path, value, name=name, indent=1 if name == "a.json" else None)
