"""What samplers can do with a model, known at the door from the model's own files."""

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadSpecification
from storage.spec.picture import DISTINCT_SEEDS, Request, Spec
from storage.spec.registry import Registry, parse_registry
from storage.spec.samplers import model_calls


def model_folder(
    folder: Path, scheduler: str, *, pipeline: str = "StableDiffusionPipeline", layers: int = 12, **settings: Any
) -> Path:
    """Write the configuration of a model, without weights."""
    index = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler], "text_encoder": ["transformers", "CLIP"]}
    (folder / "scheduler").mkdir(parents=True)
    (folder / "text_encoder").mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": scheduler} | settings))
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    return folder


def registry(source: object, **entry: object) -> Registry:
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in entry.items())
    return parse_registry(f'[models.m]\nkind = "diffusers"\nsource = "{source}"\n{lines}', where="here")


def spec(known: Registry, **fields: Any) -> Spec:
    return known.resolve(Request.parse({"prompt": "a red star"} | fields), seed=1)


@pytest.fixture
def sd(tmp_path: Path) -> Registry:
    return registry(model_folder(tmp_path / "sd", "PNDMScheduler", skip_prk_steps=True))


@pytest.mark.parametrize(
    ("scheduler", "fields", "fits"),
    [
        ("PNDMScheduler", {}, False),
        ("EulerDiscreteScheduler", {}, False),
        ("PNDMScheduler", {"sampler": "ddim"}, True),
        ("DDIMScheduler", {}, True),
        ("TCDScheduler", {}, True),
    ],
)
def test_eta_is_for_samplers_that_read_it_also_where_it_is_the_models_own(
    tmp_path: Path, scheduler: str, fields: dict[str, Any], fits: bool
) -> None:
    known = registry(model_folder(tmp_path / "m", scheduler), num_inference_steps=4)
    if fits:
        assert spec(known, eta=0.5, **fields).eta == 0.5
        return
    with pytest.raises(BadSpecification, match=rf"eta: the model m's own sampler \({scheduler}\) does not support it"):
        spec(known, eta=0.5, **fields)
    assert spec(known, eta=0.0, **fields).eta == 0


# -- numbers of steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "settings", "fields", "least", "most"),
    [
        ("PNDMScheduler", {}, {"sampler": "lcm"}, 1, 50),
        ("LCMScheduler", {"original_inference_steps": 100}, {"sampler": "lcm"}, 1, 100),
        ("LCMScheduler", {"original_inference_steps": 20}, {}, 1, 20),
        ("LCMScheduler", {}, {"sampler": "euler"}, 1, 1000),
        ("TCDScheduler", {}, {}, 1, 50),
        ("DDIMScheduler", {"num_train_timesteps": 400}, {"sampler": "heun"}, 1, 400),
        ("DDIMScheduler", {"num_train_timesteps": 40}, {"sampler": "lcm"}, 1, 40),
        ("PNDMScheduler", {"skip_prk_steps": False}, {}, 4, 1000),
        ("PNDMScheduler", {}, {"sampler": "pndm"}, 4, 1000),
        ("PNDMScheduler", {"skip_prk_steps": True}, {"sampler": "pndm"}, 1, 1000),
        ("EulerDiscreteScheduler", {}, {"sampler": "pndm"}, 1, 1000),
    ],
)
def test_steps_that_a_sampler_cannot_do_are_refused_with_the_nearest_that_it_can(
    tmp_path: Path, scheduler: str, settings: dict[str, Any], fields: dict[str, Any], least: int, most: int
) -> None:
    known = registry(model_folder(tmp_path / "m", scheduler, **settings))
    for steps in {least, least + 1, most - 1, most}:
        assert spec(known, steps=steps, **fields).num_inference_steps == steps
    for steps, nearest in ((least - 1, least), (most + 1, most)):
        if 1 <= steps <= 1000:
            with pytest.raises(BadSpecification, match=f"^num_inference_steps: .*the nearest is {nearest} .*{steps}"):
                spec(known, steps=steps, **fields)


def test_lcm_takes_fifty_steps_where_the_models_files_are_elsewhere() -> None:
    known = registry("someone/far")
    assert spec(known, sampler="lcm", steps=50).num_inference_steps == 50
    with pytest.raises(BadSpecification, match="LCM.*nearest is 50"):
        spec(known, sampler="lcm", steps=51)


def test_a_prior_runs_two_steps_or_more() -> None:
    known = registry("someone/kandinsky", pipeline="KandinskyV22Pipeline")
    assert spec(known, prior_steps=2).prior_num_inference_steps == 2
    with pytest.raises(BadSpecification, match="^prior_num_inference_steps: .* 2 steps or more"):
        spec(known, prior_steps=1)


# -- what fits the model -----------------------------------------------------------------------------------------


def test_a_sampler_that_cannot_compute_with_what_a_model_predicts_is_refused(tmp_path: Path) -> None:
    known = registry(model_folder(tmp_path / "m", "DDIMScheduler", prediction_type="sample"))
    for sampler in ("euler a", "pndm"):
        with pytest.raises(BadSpecification, match="^sampler: .* predicts 'sample'; these can: DDIM, .*Euler"):
            spec(known, sampler=sampler)
    assert spec(known, sampler="euler").sampler == "euler"
    assert spec(known).sampler is None


def test_a_model_with_a_schedule_for_its_own_sampler_alone_takes_no_other(tmp_path: Path) -> None:
    known = registry(model_folder(tmp_path / "m", "EDMDPMSolverMultistepScheduler"))
    with pytest.raises(BadSpecification, match="^sampler: .*EDMDPMSolver"):
        spec(known, sampler="euler")
    assert spec(known).sampler is None


@pytest.mark.parametrize(("pipeline", "most"), [("StableDiffusionPipeline", 3), ("StableDiffusionXLPipeline", 2)])
def test_no_more_layers_are_skipped_than_there_are(tmp_path: Path, pipeline: str, most: int) -> None:
    known = registry(model_folder(tmp_path / "m", "DDIMScheduler", pipeline=pipeline, layers=3))
    assert spec(known, clip_skip=most).clip_skip == most
    for wanted in (most + 1, 20):
        with pytest.raises(BadSpecification, match=f"^clip_skip: at most {most} .* 3 layers .*{wanted}"):
            spec(known, clip_skip=wanted)


def test_the_shipped_models_own_layers_are_known() -> None:
    with pytest.raises(BadSpecification, match="^clip_skip: at most 3"):
        spec(registry("shipped:shapes"), clip_skip=20)


def test_files_that_say_nothing_forbid_nothing(tmp_path: Path) -> None:
    for content in ("", "[]", "{}", '{"_class_name": 3}', '{"_class_name": "X", "scheduler": ["diffusers", "Y"]}'):
        folder = tmp_path / str(hash(content))
        folder.mkdir()
        (folder / "model_index.json").write_text(content)
        assert spec(registry(folder), clip_skip=20, steps=1000).clip_skip == 20


# -- calls of the model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"sampler": "heun", "steps": 1}, 1),
        ({"sampler": "heun", "steps": 25}, 49),
        ({"sampler": "pndm", "steps": 1}, 1),
        ({"sampler": "pndm", "steps": 25}, 26),
        ({"steps": 25}, 26),
        ({"sampler": "dpm++ sde", "steps": 25}, 25),
        ({"sampler": "ddim", "steps": 25}, 25),
    ],
)
def test_a_picture_takes_as_many_calls_as_its_sampler_makes(sd: Registry, fields: dict[str, Any], calls: int) -> None:
    assert model_calls(spec(sd, **fields), sd["m"]) == calls


def test_the_steps_of_a_prior_are_counted() -> None:
    known = registry("someone/kandinsky", pipeline="KandinskyV22Pipeline")
    assert model_calls(spec(known, steps=50, prior_steps=10), known["m"]) == 60
    assert model_calls(spec(known, steps=50), known["m"]) == 75


def test_a_models_own_sampler_is_counted_as_its_class_calls(tmp_path: Path) -> None:
    own = {"HeunDiscreteScheduler": 39, "KDPM2DiscreteScheduler": 39, "EulerDiscreteScheduler": 20, "PNDMScheduler": 29}
    for scheduler, calls in own.items():
        known = registry(model_folder(tmp_path / scheduler, scheduler))
        assert model_calls(spec(known, steps=20), known["m"]) == calls


# -- seeds -------------------------------------------------------------------------------------------------------


def test_a_seed_of_more_than_32_bits_is_told_what_it_means(sd: Registry) -> None:
    from storage.spec.capabilities import remarks

    assert list(remarks(spec(sd, seed=DISTINCT_SEEDS - 1), sd["m"])) == []
    said = [*remarks(spec(sd, seed=DISTINCT_SEEDS + 5), sd["m"]), *remarks(spec(sd, seed=2**63 - 1), sd["m"])]
    assert len(set(said)) == 1
    assert "lowest 32 bits" in said[0]
