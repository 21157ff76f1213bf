"""The web UI's door: what each field of its schema (1.10.1) does to a picture, or why it is refused."""

import base64
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scheduler.intake.manifests import manifest, read_manifest
from storage.spec.foreign_samplers import of_webui
from storage.spec.sampler_names import SAMPLERS
from tests.contract.stage import Stage, running_stage
from tests.contract.webui import Drawn

#: Every field of the web UI's `StableDiffusionProcessingTxt2Img` → a value other than its default, as its API takes it.
SCHEMA: Mapping[str, Any] = {
    "prompt": "a red star",
    "negative_prompt": "blue",
    "styles": ["oil"],
    "seed": 7,
    "subseed": 3,
    "subseed_strength": 0.5,
    "seed_resize_from_h": 512,
    "seed_resize_from_w": 512,
    "sampler_name": "Heun",
    "scheduler": "Karras",
    "batch_size": 2,
    "n_iter": 2,
    "steps": 7,
    "cfg_scale": 3.5,
    "width": 128,
    "height": 72,
    "restore_faces": True,
    "tiling": True,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
    "eta": 0.3,
    "denoising_strength": 0.4,
    "s_min_uncond": 1.5,
    "s_churn": 5.0,
    "s_tmax": 10.0,
    "s_tmin": 0.1,
    "s_noise": 1.01,
    "override_settings": {"CLIP_stop_at_last_layers": 2},
    "override_settings_restore_afterwards": False,
    "refiner_checkpoint": "sd_xl_refiner",
    "refiner_switch_at": 0.6,
    "disable_extra_networks": True,
    "firstpass_image": "iVBORw0KGgo=",
    "comments": {"by": "ann"},
    "enable_hr": True,
    "firstphase_width": 256,
    "firstphase_height": 256,
    "hr_scale": 3.0,
    "hr_upscaler": "ESRGAN_4x",
    "hr_second_pass_steps": 10,
    "hr_resize_x": 1024,
    "hr_resize_y": 1024,
    "hr_checkpoint_name": "other",
    "hr_sampler_name": "Euler",
    "hr_scheduler": "Karras",
    "hr_prompt": "sharp",
    "hr_negative_prompt": "blurry",
    "force_task_id": "task(x)",
    "sampler_index": "Heun",
    "script_name": "x/y/z plot",
    "script_args": [1, 2],
    "send_images": False,
    "save_images": True,
    "alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}},
    "infotext": "a star\nSteps: 20",
}
#: Fields that speak of the answer, and of what is kept here in any case.
ANSWERED = {"send_images", "save_images", "do_not_save_grid", "override_settings_restore_afterwards"}
#: Fields that change nothing in the web UI either, without another one: a remark says so.
IDLE = {
    *("denoising_strength", "firstphase_width", "firstphase_height", "refiner_switch_at", "script_args", "subseed"),
    *(name for name in SCHEMA if name.startswith("hr_")),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("webui") / "home") as stage:
        yield stage


@pytest.mark.parametrize("field", sorted(SCHEMA))
def test_every_field_of_the_web_ui_changes_the_picture_or_is_refused(stage: Stage, field: str) -> None:
    tag = {"prompt": "a star <lora:ink:0.5>"} if field == "disable_extra_networks" else {}
    plain, other = Drawn(stage, seed=5, **tag), Drawn(stage, **{"seed": 5, **tag, field: SCHEMA[field]})
    if other.status != 200:
        assert other.status == 422
        assert other.words.startswith(field), other.words
        assert "given" in other.words or "supported" in other.words or "sampler" in other.words
        assert field not in ANSWERED | IDLE
    elif field in IDLE:
        assert other.spec == plain.spec
        assert [remark for remark in other.remarks if remark.startswith(f"{field}: changes nothing without ")]
    elif field in ANSWERED:
        assert (other.spec, other.remarks) == (plain.spec, [])
        assert (other.answer["images"] == []) == (field == "send_images")
    else:
        assert other.spec != plain.spec or len(other.jobs) == 2


@pytest.mark.parametrize(
    ("setting", "value", "refused"),
    [
        ("sd_vae", "vae-ft-mse.safetensors", True),
        ("sd_vae", "Automatic", False),
        ("eta_noise_seed_delta", 31337, True),
        ("eta_noise_seed_delta", 0, False),
        ("randn_source", "GPU", True),
        ("randn_source", "CPU", False),
        ("emphasis", "No norm", True),
        ("sd_checkpoint_hash", "abcdef", True),
        ("forge_additional_modules", [], False),
        ("forge_additional_modules", ["ae.safetensors"], True),
        ("CLIP_stop_at_last_layers", 0, True),
        ("CLIP_stop_at_last_layers", 1, False),
        ("CLIP_stop_at_last_layers", "two", True),
        ("CLIP_stop_at_last_layers", 10**400, True),
        ("sd_model_checkpoint", "nope", True),
        ("samples_format", "avif", True),
        ("upcast_attn", True, True),
    ],
)
def test_a_setting_that_would_change_the_picture_is_done_or_refused(
    stage: Stage, setting: str, value: Any, refused: bool
) -> None:
    drawn = Drawn(stage, override_settings={setting: value})
    assert (drawn.status == 422) == refused, drawn.words
    if refused:
        assert drawn.words.startswith(setting)
        asked = stage.client().post("/sdapi/v1/options", json={setting: value})
        assert (asked.status_code, asked.json()["detail"].partition(":")[0]) == (422, setting)


def test_layers_are_counted_as_the_web_ui_counts(stage: Stage) -> None:
    for stop, skip in ((1, None), (2, 1), (5, 4)):
        drawn = Drawn(stage, override_settings={"CLIP_stop_at_last_layers": stop})
        assert (drawn.spec.get("clip_skip"), drawn.info["clip_skip"]) == (skip, stop)
    assert Drawn(stage, clip_skip=2, override_settings={"CLIP_stop_at_last_layers": 2}).spec["clip_skip"] == 1
    assert Drawn(stage, clip_skip=3).spec["clip_skip"] == 2
    assert "give one" in Drawn(stage, clip_skip=3, override_settings={"CLIP_stop_at_last_layers": 2}).words
    xl = {"sd_model_checkpoint": "xl"}
    assert "clip_skip" not in Drawn(stage, override_settings={**xl, "CLIP_stop_at_last_layers": 2}).spec
    assert "SDXL" in Drawn(stage, override_settings={**xl, "CLIP_stop_at_last_layers": 3}).words


def test_settings_stay_where_they_are_set_to(stage: Stage) -> None:
    client = stage.client()
    try:
        assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).json() == {}
        assert client.get("/sdapi/v1/options").json()["CLIP_stop_at_last_layers"] == 2
        assert Drawn(stage).spec["clip_skip"] == 1
        assert "clip_skip" not in Drawn(stage, override_settings={"CLIP_stop_at_last_layers": 1}).spec
        assert Drawn(stage).spec["clip_skip"] == 1
        kept = {"override_settings": {"CLIP_stop_at_last_layers": 3}, "override_settings_restore_afterwards": False}
        assert Drawn(stage, **kept).spec["clip_skip"] == 2
        assert Drawn(stage).spec["clip_skip"] == 2
    finally:
        client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 1})


@pytest.mark.parametrize(("asked", "form"), [("png", "PNG"), ("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_pictures_come_in_the_format_that_the_settings_say(stage: Stage, asked: str, form: str) -> None:
    [image] = Drawn(stage, override_settings={"samples_format": asked}).answer["images"]
    assert Image.open(io.BytesIO(base64.b64decode(image))).format == form


# -- samplers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schedule", "sampler"),
    [
        (None, None, None),
        ("Euler a", None, "euler a"),
        ("Euler a", "Automatic", "euler a"),
        ("Euler", "Uniform", "euler uniform"),
        ("Euler", "Normal", "euler uniform"),
        ("euler_a", "SGMUniform", "euler a sgm uniform"),
        ("LMS", "Polyexponential", "lms exponential"),
        ("Heun", "Turbo", "heun trailing"),
        ("Euler", "align_your_steps", "euler align your steps"),
        ("DPM2 a", None, "dpm2 a karras"),
        ("DPM++ SDE", "Automatic", "dpm++ sde karras"),
        ("DPM++ 2M SDE", None, "dpm++ 2m sde exponential"),
        ("DPM++ 2M SDE Karras", None, "dpm++ 2m sde karras"),
        ("k_dpmpp_2m_sde_ka", None, "dpm++ 2m sde karras"),
        ("DPM++ 2M SDE Heun", "Beta", "dpm++ 2m sde heun beta"),
        ("DPM++ 3M SDE", "Exponential", "dpm++ 3m sde exponential"),
        ("k_euler_a", "automatic", "euler a"),
        ("PLMS", None, "pndm"),
        ("DPM++ 2M Karras", None, "dpm++ 2m karras"),
        ("DPM++ 2M Karras", "Karras", "dpm++ 2m karras"),
        ("DPM++ 2M", "karras", "dpm++ 2m karras"),
        ("DPM++ 2M", "Automatic", "dpm++ 2m karras"),
        ("DPM++ 2M", None, "dpm++ 2m karras"),
        ("DPM++ 2M", "Uniform", "dpm++ 2m uniform"),
        ("DDIM", "Karras", "ddim"),
    ],
)
def test_samplers_and_schedules_are_those_of_the_web_ui(name: str | None, schedule: str | None, sampler: str) -> None:
    assert of_webui(name, schedule)[0] == sampler


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"sampler_name": "Restart"}, "sampler_name: is not a sampler of the farm; Euler a comes close"),
        ({"sampler_name": "DPM++ 2S a"}, "sampler_name: is not a sampler of the farm; DPM++ SDE Karras comes close"),
        ({"sampler_name": "Magic", "scheduler": "Karras"}, "sampler_name: is not a sampler; expected one of DDIM, "),
        ({"sampler_name": "DPM++ 2M", "scheduler": "KL Optimal"}, "scheduler: KL Optimal is not supported, for in the"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Beta"}, "scheduler: Beta, while the name"),
        ({"scheduler": "Karras"}, "scheduler: Karras needs a sampler"),
        ({"sampler_name": "Euler", "scheduler": "Magic"}, "scheduler: 'Magic' is not a schedule"),
    ],
)
def test_a_sampler_or_schedule_that_is_not_here_is_refused(stage: Stage, body: dict[str, Any], words: str) -> None:
    drawn = Drawn(stage, **body)
    assert (drawn.status, drawn.words[: len(words)]) == (422, words)


def test_every_sampler_and_schedule_that_are_listed_are_drawn_together(stage: Stage) -> None:
    client = stage.client()
    schedules = [one["label"] for one in client.get("/sdapi/v1/schedulers").json()]
    assert schedules[:2] == ["Automatic", "Uniform"]
    assert "KL Optimal" not in schedules
    names = [one["name"] for one in client.get("/sdapi/v1/samplers").json()]
    for name, schedule in itertools.product(names, schedules):
        if name.endswith(" Karras") and schedule not in ("Automatic", "Karras"):
            continue
        sampler, remarks = of_webui(name, schedule)
        assert sampler is not None
        assert sampler in SAMPLERS
        assert sampler.startswith(name.lower().removesuffix(" karras"))
        assert sampler.count(" ") > name.count(" ") or schedule == "Automatic" or "Karras" in name or remarks


# -- prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        ({"prompt": "a (red:1.5) star"}, {"prompt": "a (red:1.5) star", "prompt_weighting": "webui"}),
        ({"prompt": "((x))"}, {"prompt": "((x))", "prompt_weighting": "webui"}),
        ({"prompt": "a [x]"}, {"prompt": "a [x]", "prompt_weighting": "webui"}),
        ({"prompt": "[a:b:0.5] [c|d]"}, {"prompt": "[a:b:0.5] [c|d]", "prompt_weighting": "webui"}),
        ({"prompt": "a AND b :0.5"}, {"prompt": "a AND b :0.5", "prompt_weighting": "webui"}),
        ({"negative_prompt": "[a:b:5]"}, {"negative_prompt": "[a:b:5]", "prompt_weighting": "webui"}),
        ({"negative_prompt": "(blurry:1.4)"}, {"negative_prompt": "(blurry:1.4)", "prompt_weighting": "webui"}),
        ({"prompt": "a star <lora:ink:0.8>"}, {"prompt": "a star", "loras": {"ink": 0.8}, "prompt_weighting": None}),
        ({"prompt": "<lora:Ink:1.2> (a:1.1)"}, {"prompt": "(a:1.1)", "loras": {"ink": 1.2}}),
        ({"prompt": "a plain star"}, {"prompt": "a plain star", "prompt_weighting": None}),
        ({"prompt": "word " * 30}, {"prompt_weighting": "webui"}),
        ({"prompt": r"a \(star\)"}, {"prompt": r"a \(star\)", "prompt_weighting": "webui"}),
        (
            {"prompt": "plain words", "override_settings": {"sd_model_checkpoint": "weighted"}},
            {"prompt": "plain words", "prompt_weighting": "webui"},
        ),
        (
            {"prompt": r"a \(star\)", "override_settings": {"sd_model_checkpoint": "toy"}},
            {"prompt": "a (star)", "prompt_weighting": None},
        ),
    ],
)
def test_prompts_are_read_in_the_web_uis_language(stage: Stage, body: dict[str, Any], spec: dict[str, Any]) -> None:
    drawn = Drawn(stage, **body)
    assert {name: drawn.spec.get(name) for name in spec} == spec
    assert not [remark for remark in drawn.remarks if "prompt" in remark]
    assert drawn.info["prompt"] == body.get("prompt", "a star")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "<lora:oil:0.8> a"}, "prompt: no LoRA named 'oil'; registered LoRAs: ink"),
        ({"prompt": "<lora:ink:0.8:0.2> a"}, "prompt: '<lora:ink:0.8:0.2>': one weight"),
        ({"prompt": "<lora:ink:1> <lora:Ink:1> a"}, "prompt: a LoRA is named twice"),
        ({"prompt": "<hypernet:x:1> a"}, "prompt: '<hypernet:x:1>': only <lora:NAME:WEIGHT>"),
        ({"prompt": "a cat AND a dog", "cfg_scale": 1}, "prompt: prompts put together by AND steer by guidance"),
        (
            {"prompt": "a AND b", "override_settings": {"sd_model_checkpoint": "toy"}},
            "prompt: the model toy cannot put",
        ),
        (
            {"prompt": "[a|b]", "override_settings": {"sd_model_checkpoint": "toy"}},
            "prompt: the model toy cannot weigh",
        ),
        ({"negative_prompt": "<lora:ink:1>"}, "negative_prompt: '<lora:ink:1>'"),
        ({"prompt": "<lora:ink:0.8>"}, "prompt: must not be empty"),
        ({"prompt": "(a:1.2)", "override_settings": {"sd_model_checkpoint": "toy"}}, "prompt: the model toy cannot"),
        ({"prompt": "<lora:ink:1>a", "override_settings": {"sd_model_checkpoint": "toy"}}, "prompt: the model toy is"),
    ],
)
def test_words_that_would_mean_something_else_are_refused(stage: Stage, body: dict[str, Any], words: str) -> None:
    drawn = Drawn(stage, **body)
    assert (drawn.status, drawn.words[: len(words)]) == (422, words)


def test_a_comment_is_not_drawn_and_a_remark_says_so(stage: Stage) -> None:
    drawn = Drawn(stage, prompt="a star #1 on red ground\non blue", negative_prompt="a dog # or two")
    assert (drawn.spec["prompt"], drawn.spec["negative_prompt"]) == ("a star\non blue", "a dog")
    # What is told of them asks for the same pictures.
    assert (drawn.info["prompt"], drawn.info["all_negative_prompts"]) == ("a star\non blue", ["a dog"])
    assert drawn.remarks == ["prompt: from # to the end of its line it is a comment, and not drawn, as in the web UI"]


@pytest.mark.parametrize("setting", ["CLIP_stop_at_last_layers", "jpeg_quality"])
@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_a_setting_that_is_no_finite_number_is_refused(stage: Stage, setting: str, number: str) -> None:
    # As text: the client writes none of them.
    body = f'{{"prompt": "a star", "override_settings": {{"{setting}": {number}}}}}'
    answer = stage.client().post("/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, setting)


def test_of_two_names_of_a_sampler_the_one_that_is_not_read_is_told(stage: Stage) -> None:
    drawn = Drawn(stage, sampler_name="Euler a", sampler_index="DDIM")
    assert (drawn.spec["sampler"], drawn.remarks) == ("euler a", ["sampler_index: ignored; sampler_name says Euler a"])
    assert Drawn(stage, sampler_name="Euler a", sampler_index="Euler a").remarks == []


def test_guidance_below_one_is_remarked_upon(stage: Stage) -> None:
    assert "cfg_scale: below 1 there is no guidance here" in Drawn(stage, cfg_scale=0.5).remarks[0]
    assert Drawn(stage, cfg_scale=1).remarks == []


def test_extensions_that_are_off_are_let_pass(stage: Stage) -> None:
    off = {"ADetailer": {"args": [False, {"ad_model": "face"}]}, "Refiner": {"args": [False, "x", 0.8]}}
    assert Drawn(stage, alwayson_scripts=off).remarks == []


@pytest.mark.parametrize("weighting", [None, "compel"])
def test_elsewhere_the_language_gets_a_remark(stage: Stage, weighting: str | None) -> None:
    body = {"prompt": "a ((red)) [star] <lora:ink:0.8>"} | ({} if weighting is None else {"weighting": weighting})
    remarks = stage.client().post("/v1/renders", json=body).json()["remarks"]
    assert [remark.partition(" of the web UI")[0] for remark in remarks] == [
        "prompt: (word:1.3), ((word)), [word], [one:other:0.5], [one|other] and BREAK",
        "prompt: <lora:NAME:WEIGHT>",
    ]
    read = stage.client().post("/v1/renders", json={"prompt": "a ((red)) [star]", "weighting": "a1111"}).json()
    assert read["remarks"] == []


def test_what_the_door_answers_asks_for_the_same_pictures_as_a_prompt_file(stage: Stage, tmp_path: Path) -> None:
    drawn = Drawn(
        stage, clip_skip=2, batch_size=2, negative_prompt="a dog", sampler_name="DPM++ 2M", scheduler="Karras"
    )
    for said in (drawn.info, drawn.answer):
        (tmp_path / "answer.json").write_text(json.dumps(said))
        asked = [one.request.asked() for one in read_manifest(manifest(tmp_path / "answer.json"))]
        assert [{**job.spec.fields(), **again} for job, again in zip(drawn.jobs, asked, strict=True)] == [
            job.spec.fields() for job in drawn.jobs
        ]
        assert [again["clip_skip"] for again in asked] == [1, 1]
