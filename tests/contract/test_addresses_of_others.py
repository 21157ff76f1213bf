"""Addresses that clients of other services call: what is there, and what is said where nothing is."""

from collections.abc import Iterator

import pytest
import webuiapi

from tests.contract.stage import MODELS, Stage, running_stage
from tests.safetensors_files import written


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("addresses")
    written(folder / "badhands.safetensors", {"emb_params": (6, 768)})
    written(folder / "of-xl.safetensors", {"clip_l": (2, 768), "clip_g": (2, 1280)})
    words = f'[embeddings.badhands]\nsource = "{folder}/badhands.safetensors"\n'
    words += f'[embeddings.of-xl]\nsource = "{folder}/of-xl.safetensors"\nmodels = ["xl"]\n'
    words += '[embeddings.there]\nsource = "someone/there"\n'
    with running_stage(folder / "home", models=MODELS + words) as stage:
        yield stage


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/sdapi/v1/img2img", "POST /sdapi/v1/txt2img"),
        ("POST", "/sdapi/v1/extra-single-image", "final size"),
        ("POST", "/sdapi/v1/png-info", "farm recipe"),
        ("POST", "/sdapi/v1/interrogate", "not described"),
        ("POST", "/sdapi/v1/skip", "/sdapi/v1/interrupt"),
        ("POST", "/sdapi/v1/refresh-checkpoints", "models.toml"),
        ("POST", "/sdapi/v1/unload-checkpoint", "models.toml"),
        ("POST", "/sdapi/v1/server-restart", "farm up"),
        ("POST", "/sdapi/v1/train/embedding", "nothing is trained"),
        ("GET", "/sdapi/v1/memory", "/v1/workers"),
        ("GET", "/sdapi/v1/cmd-flags", "FARM_"),
        ("GET", "/sdapi/v1/script-info", "scripts"),
        ("GET", "/sdapi/v1/whatever", "does not have it"),
        ("POST", "/controlnet/detect", "preprocessors"),
        ("POST", "/controlnet/txt2img", "alwayson_scripts"),
        ("POST", "/internal/progress", "/sdapi/v1/progress"),
        ("GET", "/queue/status", "/sdapi/v1/progress"),
        ("POST", "/v1/images/edits", "/v1/images/generations"),
        ("POST", "/v1/chat/completions", "no text is written"),
        ("POST", "/v1/trainings", "predictions"),
        ("POST", "/openai/deployments/x/images/generations", "not Azure's"),
        ("GET", "/nowhere", "GET /docs"),
    ],
)
def test_an_address_that_others_have_says_what_the_farm_does_instead(
    stage: Stage, method: str, path: str, words: str
) -> None:
    answer = stage.client().request(method, path, json={} if method == "POST" else None)
    told = answer.json()
    detail = told["error"]["message"] if isinstance(told.get("error"), dict) else told["detail"]
    assert answer.status_code == 404
    assert detail.startswith(f"there is no {method} {path} here: ")
    assert words in detail


def test_two_slashes_in_a_row_are_pointed_out(stage: Stage) -> None:
    answer = stage.client().get(f"{stage.address}//v1/renders")
    assert (answer.status_code, "ends without one" in answer.json()["detail"]) == (404, True)


def test_a_method_that_does_nothing_says_which_does(stage: Stage) -> None:
    answer = stage.client().get("/sdapi/v1/txt2img")
    assert (answer.status_code, answer.json()["detail"]) == (405, "GET does nothing at /sdapi/v1/txt2img; use POST")
    assert stage.client().put("/v1/renders").json()["detail"] == "PUT does nothing at /v1/renders; use GET, POST"


def test_the_web_uis_client_lists_what_there_is_and_what_there_is_none_of(stage: Stage) -> None:
    webui = webuiapi.WebUIApi(baseurl=f"{stage.address}/sdapi/v1", username="any", password=stage.key)
    try:
        assert [lora["name"] for lora in webui.get_loras()] == ["ink"]
        assert "karras" in webui.util_get_scheduler_names()
        assert webui.controlnet_model_list() == ["somewhere/net"]
        for listed in (webui.get_upscalers, webui.get_hypernetworks, webui.get_face_restorers, webui.get_prompt_styles):
            assert listed() == []
        assert webui.get_sd_vae() == webui.get_realesrgan_models() == webui.get_latent_upscale_modes() == []
        held = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
        assert webui.get_embeddings() == {
            "loaded": {"badhands": {**held, "shape": 768, "vectors": 6}, "there": {**held, "shape": 0, "vectors": 0}},
            "skipped": {"of-xl": {**held, "shape": 2048, "vectors": 2}},
        }
        webui.set_options({"sd_model_checkpoint": "xl"})
        assert webui.get_embeddings()["loaded"].keys() == {"badhands", "there", "of-xl"}
    finally:
        webui.session.close()
