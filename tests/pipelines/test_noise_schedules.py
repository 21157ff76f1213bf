"""Each sampler with a schedule is what its name says: σs by the formulas of their sources, steps by the references."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from scipy import stats

from storage.spec.sampler_names import SAMPLERS, SCHEDULES, SOLVERS, WITHOUT_SCHEDULES
from tests.pipelines.conftest import Models
from tests.pipelines.reference_solvers import REFERENCES, Denoiser
from worker.rendering.backend import LoadedModel
from worker.rendering.noise_schedules import sigmas_of, trained_sigmas
from worker.rendering.samplers import make_scheduler

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Floats = np.ndarray[Any, Any]


def own(**settings: Any) -> Any:
    return diffusers.DDIMScheduler(**{**SD, "clip_sample": False, "steps_offset": 1} | settings)


@functools.cache
def trained() -> Floats:
    betas = np.linspace(SD["beta_start"] ** 0.5, SD["beta_end"] ** 0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    return np.asarray(((1 - kept) / kept) ** 0.5)


# -- σs ----------------------------------------------------------------------------------------------------------


def t_to_sigma(timestep: float) -> float:
    """Interpolate as k-diffusion does: between the logarithms of two neighbours."""
    logs = np.log(trained())
    low = min(math.floor(timestep), 998)
    return math.exp((1 - (timestep - low)) * logs[low] + (timestep - low) * logs[low + 1])


def ays(steps: int, sdxl: bool) -> list[float]:
    known = (
        [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
        if sdxl
        else [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    )
    places = [step * 10 / (steps - 1) for step in range(steps)]
    found = []
    for place in places:
        low = min(int(place), 9)
        found.append(known[low] ** (1 - (place - low)) * known[low + 1] ** (place - low))
    return found


LEAST, MOST = trained()[0], trained()[-1]
#: The formulas of the sources that `storage.spec.sampler_names` names, step by step.
FORMULAS: Mapping[str, Callable[[int], list[float]]] = {
    "uniform": lambda n: [t_to_sigma(999 - 999 * i / max(n - 1, 1)) for i in range(n)],
    "karras": lambda n: [
        (MOST ** (1 / 7) + i / max(n - 1, 1) * (LEAST ** (1 / 7) - MOST ** (1 / 7))) ** 7 for i in range(n)
    ],
    "exponential": lambda n: [MOST * (LEAST / MOST) ** (i / max(n - 1, 1)) for i in range(n)],
    "sgm uniform": lambda n: [t_to_sigma(999 - 999 * i / n) for i in range(n)],
    "simple": lambda n: [trained()[999 - int(i * (1000 / n))] for i in range(n)],
    "ddim uniform": lambda n: [trained()[1 + i * (1000 // n)] for i in range(n)][::-1],
    "beta": lambda n: [LEAST + stats.beta.ppf(1 - i / max(n - 1, 1), 0.6, 0.6) * (MOST - LEAST) for i in range(n)],
    "beta timesteps": lambda n: [trained()[round(stats.beta.ppf(1 - i / n, 0.6, 0.6) * 999)] for i in range(n)],
    "kl optimal": lambda n: [
        math.tan(i / (n - 1) * math.atan(LEAST) + (1 - i / (n - 1)) * math.atan(MOST)) for i in range(n)
    ],
    "align your steps": lambda n: ays(n, sdxl=False),
    "trailing": lambda n: [trained()[int(np.round(1000 - i * 1000 / n)) - 1] for i in range(n)],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 3, 5, 10, 11, 20, 25, 50, 125])
def test_the_sigmas_of_a_schedule_are_those_of_its_formula(schedule: str, steps: int) -> None:
    if schedule == "ddim uniform" and steps == 11:
        with pytest.raises(ValueError, match=f"cannot have {steps} steps"):
            sigmas_of(schedule, steps, trained(), solver="euler")
        return
    found = sigmas_of(schedule, steps, trained(), solver="euler")
    np.testing.assert_allclose(found, FORMULAS[schedule](steps), rtol=1e-6)


def test_sdxl_has_sigmas_of_its_own_to_align_steps_by() -> None:
    for steps in (2, 10, 11, 30):
        found = sigmas_of("align your steps", steps, trained(), solver="euler", sdxl=True)
        np.testing.assert_allclose(found, ays(steps, sdxl=True), rtol=1e-6)


@pytest.mark.parametrize(("solver", "schedule"), list(itertools.product(REFERENCES, SCHEDULES)))
def test_a_scheduler_walks_the_sigmas_of_its_name_whatever_the_models_file_says(solver: str, schedule: str) -> None:
    # Each spacing with some of the pairs.
    spacing = ("leading", "trailing", "linspace")[(len(solver) + len(schedule)) % 3]
    made, steps = make_scheduler(f"{solver} {schedule}", own(timestep_spacing=spacing)), 9
    discards = solver in ("dpm2", "dpm2 a", "dpm++ 3m sde")
    if schedule == "ddim uniform":
        # 10 of its levels, of which one may be left out.
        steps = 10 - discards
    made.set_timesteps(steps)
    expected = FORMULAS[schedule](steps + discards)[:steps]
    found = made.sigmas.double().numpy()
    if solver in ("heun", "dpm2", "dpm2 a"):
        found = found[::2][:steps]
    elif solver == "dpm++ sde":
        found = found[:-1:2]
    else:
        found = found[:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert made.sigmas[-1] == 0
    if (solver, schedule) != ("dpm++ 2m", "karras"):
        assert made.config.noise_schedule == schedule


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("solver", ["euler", "heun", "lms"])
def test_diffusers_flags_are_the_same_schedules_where_its_timesteps_span_all_noise(solver: str, flag: str) -> None:
    schedule = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}[flag]
    ours = make_scheduler(f"{solver} {schedule}", own())
    theirs = type(ours)(**SD, **{flag: True}, timestep_spacing="linspace")
    for steps in (2, 7, 30):
        ours.set_timesteps(steps)
        theirs.set_timesteps(steps)
        np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
        np.testing.assert_allclose(ours.timesteps, theirs.timesteps, atol=0.02)
        assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)


# -- steps -------------------------------------------------------------------------------------------------------


def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """See a picture in noise: a made-up model that bends with both, so that a wrong order shows."""
    return torch.tanh(1.5 * x / (1 + sigma)) * (1 + 0.1 * math.sin(3 * math.log(sigma)))


def by_diffusers(made: Any, start: torch.Tensor) -> torch.Tensor:
    """Sample with a scheduler as a pipeline does: the model is told the timestep and given x ÷ √(1 + σ²)."""
    logs, sample = np.log(trained()), start * made.init_noise_sigma
    generator = torch.Generator().manual_seed(7)
    draws = {"generator": generator} if "generator" in made.step.__code__.co_varnames else {}
    for timestep in made.timesteps:
        sigma = math.exp(np.interp(float(timestep), np.arange(1000), logs))
        scale = math.sqrt(1 + sigma**2)
        x = made.scale_model_input(sample, timestep) * scale
        noise = (x - denoiser(x, sigma)) / sigma
        sample = made.step(noise, timestep, sample, **draws).prev_sample
    found: torch.Tensor = sample
    return found


def by_reference(solver: str, sigmas: Sequence[float], start: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)

    def noise() -> Iterator[torch.Tensor]:
        while True:
            yield torch.randn(start.shape, generator=generator)

    model: Denoiser = denoiser
    return REFERENCES[solver](model, start, [*sigmas, 0.0], noise())


@pytest.mark.parametrize("solver", REFERENCES)
@pytest.mark.parametrize("schedule", ["karras", "sgm uniform", "kl optimal"])
@pytest.mark.parametrize("steps", [2, 3, 4, 16, 21])
def test_a_solver_steps_as_its_reference_does(solver: str, schedule: str, steps: int) -> None:
    made = make_scheduler(f"{solver} {schedule}", own())
    made.set_timesteps(steps)
    start = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    discards = solver in ("dpm2", "dpm2 a", "dpm++ 3m sde")
    sigmas = FORMULAS[schedule](steps + discards)[:steps]
    # DPM++ in Diffusers holds x ÷ √(1 + σ²), and begins with that of unit variance.
    begin = math.sqrt(1 + sigmas[0] ** 2) if solver.startswith("dpm++") else sigmas[0]
    expected = by_reference(solver, sigmas, start * begin)
    # The farm's oldest pair is Diffusers' own, whose timesteps are rounded: its model is told a little more noise.
    near = 0.02 if (solver, schedule) == ("dpm++ 2m", "karras") else 2e-3
    torch.testing.assert_close(by_diffusers(made, start), expected, rtol=near, atol=near)


@pytest.mark.parametrize("solver", sorted(REFERENCES.keys() - {"dpm++ sde", "dpm2 a"}))
@pytest.mark.parametrize("steps", [3, 20])
def test_a_solver_alone_steps_as_its_reference_does_at_the_models_own_timesteps(solver: str, steps: int) -> None:
    made = make_scheduler(solver, own(timestep_spacing="trailing"))
    made.set_timesteps(steps)
    start = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    sigmas = FORMULAS["trailing"](steps)
    begin = math.sqrt(1 + sigmas[0] ** 2) if solver.startswith("dpm++") else sigmas[0]
    expected = by_reference(solver, sigmas, start * begin)
    torch.testing.assert_close(by_diffusers(made, start), expected, rtol=2e-3, atol=2e-3)


def test_2m_sde_is_not_sde() -> None:
    start = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    drawn = []
    for solver in ("dpm++ 2m sde", "dpm++ sde", "dpm++ 2m sde heun", "dpm++ 3m sde"):
        made = make_scheduler(f"{solver} karras", own())
        made.set_timesteps(8)
        drawn.append(by_diffusers(made, start))
    assert all((one - other).abs().max() > 0.01 for one, other in itertools.combinations(drawn, 2))


# -- numbers of steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", REFERENCES)
def test_every_pair_samples_in_a_few_steps_and_in_as_many_as_it_can(solver: str) -> None:
    for schedule, steps in itertools.product(SCHEDULES, (1, 2, 3)):
        made = make_scheduler(f"{solver} {schedule}", own())
        try:
            made.set_timesteps(steps)
        except ValueError as error:
            assert "cannot have" in str(error)  # noqa: PT017 - one of many pairs
            continue
        start = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(steps))
        assert by_diffusers(made, start).isfinite().all(), (schedule, steps)


def test_every_solver_with_a_schedule_has_a_reference() -> None:
    assert set(REFERENCES) == set(SOLVERS) - WITHOUT_SCHEDULES
    assert {f"{solver} {schedule}" for solver in REFERENCES for schedule in SCHEDULES} <= set(SAMPLERS)
    assert trained_sigmas(own()) == pytest.approx(trained(), rel=1e-4)


# -- pictures ----------------------------------------------------------------------------------------------------

DPM = diffusers.DPMSolverMultistepScheduler
SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}


@pytest.mark.parametrize(
    ("sampler", "kind", "settings"),
    [
        ("euler karras", diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
        ("euler exponential", diffusers.EulerDiscreteScheduler, {"use_exponential_sigmas": True}),
        ("euler uniform", diffusers.EulerDiscreteScheduler, {}),
        ("euler a trailing", diffusers.EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
        ("heun beta", diffusers.HeunDiscreteScheduler, {"use_beta_sigmas": True}),
        ("lms karras", diffusers.LMSDiscreteScheduler, {"use_karras_sigmas": True}),
        ("dpm2", diffusers.KDPM2DiscreteScheduler, {}),
        ("dpm2 a", diffusers.KDPM2AncestralDiscreteScheduler, {}),
        ("dpm++ 2m trailing", DPM, {"timestep_spacing": "trailing"}),
        ("dpm++ 2m sde", DPM, SDE),
        ("dpm++ 2m sde trailing", DPM, {**SDE, "timestep_spacing": "trailing"}),
        ("dpm++ 2m sde heun", DPM, {**SDE, "solver_type": "heun"}),
    ],
)
@pytest.mark.parametrize("steps", [5])
def test_a_picture_is_that_of_diffusers_own_call_with_that_scheduler(
    models: Models, loaded: Callable[[str], LoadedModel], sampler: str, kind: Any, settings: dict[str, Any], steps: int
) -> None:
    model: Any = loaded("sd")
    [spec] = models.specs("sd", sampler=sampler, num_inference_steps=steps)
    ours = np.asarray(model.render([spec], lambda: None).pictures[0]).astype(np.int16)
    pipeline, config = model.pipeline, model.own_scheduler.config
    of_model = {name: config[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    # A solver alone has the spacing of the model's file.
    spaced = {name: config[name] for name in ("timestep_spacing", "steps_offset") if sampler in SOLVERS}
    pipeline.scheduler = kind(**{**of_model, "timestep_spacing": "linspace", **spaced, **settings})
    with torch.inference_mode():
        drawn = pipeline(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            width=spec.width,
            height=spec.height,
            num_inference_steps=steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
            output_type="np",
        ).images[0]
    assert np.abs(ours - np.round(drawn * 255).astype(np.int16)).max() <= 1
