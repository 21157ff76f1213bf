"""Samplers by the names of other programs: each is one of ours, or is refused with what to take."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cli.main import cli
from storage.errors import BadSpecification
from storage.spec.capabilities import remarks
from storage.spec.foreign_samplers import of_comfyui, of_diffusers, of_invokeai, of_webui, sampler_of
from storage.spec.sampler_names import (
    ABOUT_SCHEDULES,
    ABSENT,
    PLAIN,
    SAMPLERS,
    SCHEDULES,
    SOLVERS,
    WITHOUT_SCHEDULES,
    split,
)
from storage.spec.samplers import CLASSES, check_sampler, model_calls
from tests.unit.test_samplers import model_folder, registry, spec

#: What was stored before there were schedules: every one still means the same.
FIRST = ("ddim", "dpm++ 2m", "dpm++ 2m karras", "dpm++ sde", "euler", "euler a", "heun", "lcm", "lms", "pndm", "unipc")


def test_the_tables_agree() -> None:
    assert set(FIRST) <= set(PLAIN)
    assert CLASSES.keys() == SOLVERS.keys()
    assert ABOUT_SCHEDULES.keys() == SCHEDULES.keys()
    assert len(SAMPLERS) == len(SOLVERS) + len(SCHEDULES) * (len(SOLVERS) - len(WITHOUT_SCHEDULES))
    assert all(sampler_of(near) in SAMPLERS for near in ABSENT.values())
    assert not ABSENT.keys() & SOLVERS.keys()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_split_into_its_parts_and_known_by_every_spelling(name: str) -> None:
    solver, schedule = split(name)
    assert name == (solver if schedule is None else f"{solver} {schedule}")
    for written in (SAMPLERS[name], SAMPLERS[name].upper(), name.replace(" ", "_"), name.replace("++ ", "pp_")):
        assert sampler_of(written) == name


@given(st.text(max_size=60) | st.lists(st.sampled_from([*"k_ +a2m", "karras", "dpm++", "sde", "euler"])).map("".join))
def test_any_text_is_a_sampler_or_is_refused_with_what_to_take(text: str) -> None:
    try:
        assert sampler_of(text) in SAMPLERS
    except BadSpecification as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("k_dpmpp_2m_sde_ka", "dpm++ 2m sde karras"),
        ("dpmpp_2m_sde_gpu", "dpm++ 2m sde"),
        ("DPM++ 2M SDE Polyexponential", "dpm++ 2m sde exponential"),
        ("euler_ancestral", "euler a"),
        ("dpm_2_ancestral karras", "dpm2 a karras"),
        ("PLMS", "pndm"),
        ("DPMSolverMultistepScheduler", "dpm++ 2m"),
        ("DPMSolverMultistepScheduler use_karras_sigmas=True", "dpm++ 2m karras"),
        ("DPMSolverMultistepScheduler, algorithm_type=sde-dpmsolver++, use_karras_sigmas", "dpm++ 2m sde karras"),
        ("EulerDiscreteScheduler timestep_spacing=trailing use_karras_sigmas=False", "euler trailing"),
        ("EulerDiscreteScheduler(timestep_spacing='trailing')", "euler trailing"),
        ("DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)", "dpm++ 2m karras"),
        ("DPM++2M karras", "dpm++ 2m karras"),
        ("dpmpp2m", "dpm++ 2m"),
        ("euler-a", "euler a"),
        ("Euler a sampler", "euler a"),
        ("dpmpp_2m_sde_gpu_karras", "dpm++ 2m sde karras"),
        ("DPM-Solver++", "dpm++ 2m"),
    ],
)
def test_names_of_k_diffusion_and_diffusers_are_read(written: str, ours: str) -> None:
    assert sampler_of(written) == ours


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("DPM++ 2S a Karras", "is not a sampler of the farm; DPM.. SDE Karras comes close"),
        ("DDIM Karras", "DDIM has timesteps of its own and takes no schedule such as Karras"),
        ("TCDScheduler", "TCDScheduler is not a sampler of the farm"),
        ("KDPM2DiscreteScheduler use_karras_sigmas", "steps otherwise"),
        ("EulerDiscreteScheduler use_karras_sigmas use_beta_sigmas", "several schedules"),
        ("EulerDiscreteScheduler use_karas_sigmas=True", "use_karas_sigmas=True is no setting that can be asked for"),
        ("EulerDiscreteScheduler use_karras_sigmas=banana", "use_karras_sigmas=banana is no setting"),
        ("EulerDiscreteScheduler timestep_spacing=linspace", "timestep_spacing=linspace is no setting"),
        ("EulerDiscreteScheduler rescale_betas_zero_snr=True", "these are: use_karras_sigmas, .*solver_type="),
        ("DPMSolverMultistepScheduler solver_order=3", "of order 2 and midpoint here"),
        ("DPMSolverMultistepScheduler solver_type=heun", "of order 2 and midpoint here"),
        ("DPMSolverMultistepScheduler algorithm_type=dpmsolver", "algorithm_type=dpmsolver is no setting"),
        ("UniPCMultistepScheduler solver_order=3", "UniPC of order 3 is not a sampler"),
        ("magic", "is not a sampler; expected one of DDIM, "),
        ("ddpm scheduler", "is not a sampler of the farm; Euler a comes close"),
        ("uni_pc_bh2", "is not a sampler of the farm; UniPC comes close"),
        ("DDIM CFG++", "is not a sampler of the farm; DDIM comes close"),
    ],
)
def test_what_is_not_here_is_refused_with_what_to_take(written: str, says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        sampler_of(written)


def test_one_name_means_what_its_program_means_by_it() -> None:
    assert of_webui("Euler", "Beta")[0] == "euler beta"
    assert of_comfyui("euler", "beta") == "euler beta timesteps"
    assert of_webui("DPM++ 3M SDE", "Karras")[0] == "dpm++ 3m sde karras"
    with pytest.raises(BadSpecification, match="ours of that name is another; dpmpp_2m_sde comes close"):
        of_comfyui("dpmpp_3m_sde", "karras")
    assert of_invokeai("dpmpp_sde_k") == "dpm++ sde karras"
    assert of_invokeai("dpmpp_2m_sde_k") == "dpm++ 2m sde karras"
    assert of_diffusers("DPMSolverSDEScheduler", {"use_karras_sigmas": True}) == "dpm++ sde karras"
    assert of_diffusers("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}) == "dpm++ sde"
    with pytest.raises(BadSpecification, match="take DPM"):
        of_diffusers("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"})
    with pytest.raises(BadSpecification, match=r"algorithm_type sde-dpmsolver is not .*; take sde-dpmsolver\+\+"):
        of_diffusers("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"})


# -- at the door -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "steps", "says"),
    [
        ("euler ddim uniform", 30, "which are not 30; take 25 or 27"),
        ("euler ddim uniform", 1000, "take "),
        ("euler ddim uniform", 1, "takes 2 to 1000 steps; the nearest is 2"),
        ("euler kl optimal", 1, "takes 2 to 1000 steps; the nearest is 2"),
        ("heun align your steps", 1, "takes 2 to 1000 steps"),
        ("lms beta timesteps", 139, "takes 1 to 138 steps; the nearest is 138"),
        ("dpm2 simple", 1000, "takes 1 to 999 steps"),
        ("dpm++ 3m sde karras", 1000, "takes 1 to 999 steps"),
    ],
)
def test_steps_that_a_schedule_does_not_have_are_refused_with_the_nearest(
    tmp_path: Path, sampler: str, steps: int, says: str
) -> None:
    known = registry(model_folder(tmp_path / "sd", "PNDMScheduler", skip_prk_steps=True))
    with pytest.raises(BadSpecification, match=says):
        spec(known, sampler=sampler, num_inference_steps=steps)
    assert spec(known, sampler=sampler, num_inference_steps=50).num_inference_steps == 50


@pytest.mark.parametrize(
    ("pipeline", "scheduler", "settings", "says"),
    [
        ("KandinskyV22Pipeline", "DDPMScheduler", {}, "has noise levels for SD 1.5 and SDXL alone"),
        ("SanaPipeline", "DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "SD 1.5 and SDXL|flow matching"),
        ("StableDiffusion3Pipeline", "FlowMatchEulerDiscreteScheduler", {}, "a noise schedule for its own sampler"),
    ],
)
def test_a_schedule_that_a_model_has_not_is_refused(
    tmp_path: Path, pipeline: str, scheduler: str, settings: dict[str, Any], says: str
) -> None:
    known = registry(model_folder(tmp_path / "m", scheduler, pipeline=pipeline, **settings))
    made = spec(known).model_copy(update={"sampler": "euler align your steps"})
    model: Any = known["m"]
    with pytest.raises(BadSpecification, match=says):
        check_sampler(made, model)


def test_calls_of_the_model_are_counted_by_solver(tmp_path: Path) -> None:
    known = registry(model_folder(tmp_path / "sd", "PNDMScheduler", skip_prk_steps=True))
    expected = {"euler karras": 10, "heun karras": 19, "dpm2 a simple": 19, "dpm++ sde karras": 19, "dpm++ sde": 10}
    for sampler, calls in expected.items():
        assert model_calls(spec(known, sampler=sampler, num_inference_steps=10), known["m"]) == calls, sampler


def test_a_remark_says_that_sde_alone_makes_one_call_a_step(tmp_path: Path) -> None:
    known = registry(model_folder(tmp_path / "sd", "PNDMScheduler", skip_prk_steps=True))
    said = {name: [*remarks(spec(known, sampler=name), known["m"])] for name in ("dpm++ sde", "dpm++ sde karras")}
    assert any("one call a step" in remark for remark in said["dpm++ sde"])
    assert not any(remark.startswith("sampler:") for remark in said["dpm++ sde karras"])


# -- the command -------------------------------------------------------------------------------------------------


def test_samplers_are_listed_and_explained() -> None:
    listed = CliRunner().invoke(cli, ["samplers"])
    assert listed.exit_code == 0
    assert all(shown in listed.output for shown in (*SOLVERS.values(), *SCHEDULES.values()))
    names = json.loads(CliRunner().invoke(cli, ["samplers", "--json"]).output)
    assert {one["sampler"]: one["name"] for one in names} == SAMPLERS
    assert CliRunner().invoke(cli, ["samplers", "k_dpmpp_2m_sde_ka"]).output == "DPM++ 2M SDE Karras\n"
    refused = CliRunner().invoke(cli, ["samplers", "Restart"])
    assert (refused.exit_code, "Euler a comes close" in str(refused.output) + str(refused.exception)) != (0, False)
