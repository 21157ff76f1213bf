"""Samplers compared with the installed Diffusers: timesteps for every number of steps, σs, settings, calls."""

import ast
import bisect
import inspect
import itertools
import math
import textwrap
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from storage.spec.sampler_names import PLAIN, split
from storage.spec.samplers import CLASSES, WITH_ETA, predictions
from worker.rendering.samplers import _SAMPLERS, make_scheduler
from worker.rendering.timesteps import hold, noise_levels

SPACINGS = ("leading", "trailing", "linspace")
SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
#: Samplers that call the model twice in each step but the last.
TWICE = ("heun", "dpm2", "dpm2 a")
#: Around every place where something changes, and what people use.
SOME = (
    *range(1, 13),
    20,
    25,
    30,
    44,
    45,
    50,
    51,
    60,
    61,
    62,
    91,
    92,
    103,
    334,
    499,
    500,
    501,
    600,
    749,
    998,
    999,
    1000,
)

#: For how many of 1 to 1000 steps the timesteps of Diffusers 0.42 are not right; worker/README.md has the same table.
_ONE_CALL_EACH = ("ddim", "dpm++ 2m", "euler", "euler a", "heun", "lms", "pndm", "unipc")
NOT_RIGHT = {
    **{("leading", sampler): 295 for sampler in _ONE_CALL_EACH},
    **{("trailing", sampler): 62 for sampler in _ONE_CALL_EACH},
    **{("linspace", sampler): 1 for sampler in _ONE_CALL_EACH},
    # These have a spacing of their own.
    ("linspace", "dpm++ sde"): 1,
    ("linspace", "dpm++ 2m karras"): 956,
    # It takes no more than 50.
    ("leading", "lcm"): 0,
}
EVERY = sorted((sampler, spacing) for spacing, sampler in NOT_RIGHT)


def own(**settings: Any) -> Any:
    """The own scheduler of a model like Stable Diffusion."""
    return diffusers.DDIMScheduler(**{**SD, "clip_sample": False, "steps_offset": 1} | settings)


def calls(sampler: str, steps: int) -> int:
    twice = dict.fromkeys(TWICE, 2 * steps - 1)
    return {**twice, "pndm": steps + (steps > 1)}.get(sampler, steps)


def check(scheduler: Any, sampler: str, steps: int) -> None:
    """Check all that must be true of a sampler's timesteps and σs."""
    timesteps, begun = scheduler.timesteps.double().numpy(), noise_levels(scheduler)
    assert (len(timesteps), len(begun)) == (calls(sampler, steps), steps)
    # What DPM2 a interpolates is the next timestep, but for the last digits of its logarithms.
    assert (np.diff(timesteps) <= 1e-3).all(), steps
    assert (np.diff(begun) < 0).all(), steps
    assert 750 <= timesteps[0] <= 999, steps
    assert timesteps[-1] >= 0, steps
    if sampler not in ("ddim", "pndm", "lcm"):
        sigmas = scheduler.sigmas.double().numpy()
        # DPM2 ends in two zeros more.
        assert len(sigmas) == len(timesteps) + 1 + 2 * sampler.startswith("dpm2")
        falling = sigmas[::2][: steps + 1] if sampler in TWICE else sigmas
        assert (np.diff(falling) < 0).all(), steps
        assert sigmas[-1] == 0


@pytest.mark.parametrize(("sampler", "spacing"), list(itertools.product(sorted(PLAIN), SPACINGS)))
def test_timesteps_are_right_and_diffusers_own_wherever_those_are(sampler: str, spacing: str) -> None:
    kind, settings = _SAMPLERS[sampler]
    model = own(timestep_spacing=spacing)
    theirs = kind.from_config(model.config, **settings)
    for steps in SOME:
        ours = make_scheduler(sampler, model)
        if sampler == "lcm" and steps > 50:
            with pytest.raises(ValueError, match="original"):
                ours.set_timesteps(steps)
            continue
        ours.set_timesteps(steps)
        check(ours, sampler, steps)
        theirs.set_timesteps(steps)
        if hold(theirs, steps):
            assert ours.timesteps.equal(theirs.timesteps)
            assert sampler in ("ddim", "pndm", "lcm") or ours.sigmas.equal(theirs.sigmas)
            assert ours.init_noise_sigma == theirs.init_noise_sigma


def place_of(value: float, rising: list[float]) -> float:
    """Return where a value lies among others, with a fraction: `numpy.interp` for one."""
    low = min(max(bisect.bisect(rising, value) - 1, 0), len(rising) - 2)
    share = (value - rising[low]) / (rising[low + 1] - rising[low])
    return low + min(max(share, 0.0), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "spacing"), EVERY)
def test_timesteps_are_right_for_every_number_of_steps(
    sampler: str, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings = _SAMPLERS[sampler]
    if "karras" in sampler:
        # The same interpolation in a fiftieth of the time; Diffusers' own runs in the test above.
        levels = np.log(trained_sigmas()).tolist()
        monkeypatch.setattr(kind, "_sigma_to_t", lambda _, sigma, _logs: place_of(math.log(sigma), levels))
    model = own(timestep_spacing=spacing)
    theirs, put_right = kind.from_config(model.config, **settings), 0
    for steps in range(1, 51 if sampler == "lcm" else 1001):
        theirs.set_timesteps(steps)
        if hold(theirs, steps):
            check(theirs, sampler, steps)  # they stand, as the test above shows
            continue
        put_right += 1
        ours = make_scheduler(sampler, model)
        ours.set_timesteps(steps)
        check(ours, sampler, steps)
    assert put_right == NOT_RIGHT[spacing, sampler]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    "kind",
    [
        *("DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "CogVideoXDDIMScheduler"),
        *("CogVideoXDPMScheduler", "SASolverScheduler", "DEISMultistepScheduler"),
        *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    ],
)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_timesteps_of_a_models_own_sampler_without_a_name_here_are_right_too(kind: str, spacing: str) -> None:
    model = getattr(diffusers, kind)(**SD, timestep_spacing=spacing)
    # These interpolate in Python, which takes long.
    for steps in (1, 2, 3, 61) if "KDPM2" in kind else SOME:
        made = make_scheduler(None, model)
        made.set_timesteps(steps)
        assert hold(made, steps), steps
        assert made.timesteps.min() >= 0, steps


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_timesteps_of_flow_matching_are_right_as_they_are(kind: str) -> None:
    for steps in SOME:
        made = make_scheduler(None, getattr(diffusers, kind)(shift=3.0))
        made.set_timesteps(steps)
        timesteps = made.timesteps.double().numpy()
        assert len(timesteps) == (2 * steps - 1 if "Heun" in kind else steps)
        assert (np.diff(timesteps) <= 0).all()
        assert 750 <= timesteps[0] <= 1000
        assert timesteps[-1] >= 0


# -- σs ----------------------------------------------------------------------------------------------------------


def trained_sigmas() -> Any:
    betas = np.linspace(SD["beta_start"] ** 0.5, SD["beta_end"] ** 0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    return ((1 - kept) / kept) ** 0.5


@pytest.mark.parametrize("sampler", [name for name in PLAIN if name not in ("ddim", "pndm", "lcm")])
@pytest.mark.parametrize("flag", [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("steps", [1, 7, 30, 61, 200])
def test_sigmas_are_those_that_the_name_stands_for_whatever_the_models_own_are(
    sampler: str, flag: str | None, steps: int
) -> None:
    if sampler.startswith("dpm2") and steps == 61:
        # For which "trailing" has a timestep too many: DPM2, which is given none, has those of "linspace" then.
        return
    model = diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing", **({flag: True} if flag else {}))
    scheduler = make_scheduler(sampler, model)
    scheduler.set_timesteps(steps)
    found = scheduler.sigmas.double().numpy()
    found = (found[::2] if sampler in TWICE else found)[:steps]
    trained = trained_sigmas()
    if "karras" in sampler:
        ramp = np.linspace(0, 1, steps)
        expected = (trained[-1] ** (1 / 7) + ramp * (trained[0] ** (1 / 7) - trained[-1] ** (1 / 7))) ** 7
    elif sampler == "dpm++ sde":
        expected = np.interp(np.linspace(0, 999, steps + 1).round()[:0:-1], np.arange(1000), trained)
    else:
        expected = trained[np.round(1000 - np.arange(steps) * 1000 / steps).astype(int) - 1]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("trailing", 201), ("trailing", 501), ("leading", 600), ("linspace", 2), ("linspace", 5)]
)
def test_each_step_ends_at_the_noise_at_which_the_next_begins(sampler: str, spacing: str, steps: int) -> None:
    scheduler = make_scheduler(sampler, own(timestep_spacing=spacing, set_alpha_to_one=True))
    scheduler.set_timesteps(steps)
    # A model that knows picture and noise: what is left of each after a step is what the schedule says.
    picture, noise = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 2.0)
    kept = scheduler.alphas_cumprod
    levels = noise_levels(scheduler)
    sample = kept[int(levels[0])].sqrt() * picture + (1 - kept[int(levels[0])]).sqrt() * noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(noise, timestep, sample).prev_sample
        after = levels[levels < int(timestep)]
        if len(after) and not (sampler == "pndm" and scheduler.counter == 2):
            level = kept[int(after[0])]
            expected = level.sqrt() * picture + (1 - level).sqrt() * noise
            # PNDM's formula approximates; a stride that is too short by a timestep or more is farther off.
            assert torch.allclose(sample, expected, atol=5e-3 if steps > 5 else 0.05), int(timestep)
    assert torch.allclose(sample, picture, atol=0.1)


# -- what is taken over from the model -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", sorted(PLAIN))
def test_a_sampler_has_the_models_noise_schedule_even_where_its_file_leaves_it_to_the_default(sampler: str) -> None:
    models: tuple[Any, ...] = (
        diffusers.DDIMScheduler(clip_sample=False),
        diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
        diffusers.HeunDiscreteScheduler(),
        diffusers.PNDMScheduler(**SD),
    )
    for model in models:
        made = make_scheduler(sampler, model)
        np.testing.assert_allclose(made.alphas_cumprod, model.alphas_cumprod, rtol=1e-5)
        assert made.config.prediction_type == model.config.prediction_type
        assert not made.config.get("clip_sample")


def test_a_model_that_clips_is_clipped_by_the_samplers_that_can() -> None:
    for sampler in ("ddim", "heun", "lcm"):
        made = make_scheduler(sampler, diffusers.DDIMScheduler(**SD, clip_sample=True, clip_sample_range=2.0))
        assert (made.config.clip_sample, made.config.clip_sample_range) == (True, 2.0)


@pytest.mark.parametrize("sampler", sorted(PLAIN))
def test_a_model_without_signal_at_its_end_is_sampled_with_that_noise(sampler: str) -> None:
    model = own(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    made = make_scheduler(sampler, model)
    np.testing.assert_allclose(made.alphas_cumprod, model.alphas_cumprod, atol=1e-6)
    made.set_timesteps(20)
    assert made.config.rescale_betas_zero_snr
    sample = torch.ones(1, 4, 2, 2) * made.init_noise_sigma
    for timestep in made.timesteps:
        made.scale_model_input(sample, timestep)
        sample = made.step(torch.zeros(1, 4, 2, 2), timestep, sample).prev_sample
        assert sample.isfinite().all()


@pytest.mark.parametrize(
    "kind", sorted({*CLASSES.values(), "DDPMScheduler", "DEISMultistepScheduler"} - {"ThirdOrderSDEScheduler"})
)
def test_a_models_own_sampler_keeps_every_setting(kind: str) -> None:
    model = getattr(diffusers, kind)(**SD)
    # As pipelines of Stable Diffusion correct a file that is silent about them.
    changed = {name: value for name, value in (("steps_offset", 1), ("clip_sample", False)) if name in model.config}
    model._internal_dict = diffusers.configuration_utils.FrozenDict({**model.config, **changed})
    made = make_scheduler(None, model)
    assert type(made) is type(model)
    assert {name: made.config[name] for name in model.config if name[0] != "_"} == {
        name: value for name, value in model.config.items() if name[0] != "_"
    }


def test_pndm_keeps_the_flags_of_a_model_whose_own_it_is() -> None:
    for skip in (True, False):
        model = diffusers.PNDMScheduler(**SD, skip_prk_steps=skip, steps_offset=1, set_alpha_to_one=True)
        by_name, by_default = make_scheduler("pndm", model), make_scheduler(None, model)
        for made in (by_name, by_default):
            made.set_timesteps(20)
            assert made.config.skip_prk_steps is skip
            assert made.final_alpha_cumprod == 1
            assert len(made.timesteps) == (21 if skip else 29)
        assert by_name.timesteps.equal(by_default.timesteps)
    assert make_scheduler("pndm", own()).config.skip_prk_steps


def test_runge_kutta_steps_of_pndm_are_put_right_too() -> None:
    model = diffusers.PNDMScheduler(**SD, timestep_spacing="trailing")
    for steps in (*range(4, 100), 103, 600):
        made = make_scheduler(None, model)
        made.set_timesteps(steps)
        assert (len(made.timesteps), hold(made, steps)) == (steps + 9, True)
        assert made.timesteps.min() >= 0


def test_lcm_takes_all_steps_of_a_model_that_was_trained_with_fewer_than_it_is_distilled_with() -> None:
    for steps in range(1, 38):
        made = make_scheduler("lcm", own(num_train_timesteps=37))
        made.set_timesteps(steps)
        assert hold(made, steps)


# -- predictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", sorted(PLAIN))
def test_samplers_compute_with_the_predictions_that_are_written_down_and_no_others(sampler: str) -> None:
    assert _SAMPLERS[sampler][0].__name__ == CLASSES[split(sampler)[0]]
    for predicted in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        made = make_scheduler(sampler, own(prediction_type=predicted))
        made.set_timesteps(4)
        sample = torch.ones(1, 4, 2, 2)
        made.scale_model_input(sample, made.timesteps[0])
        if predicted in predictions(sampler):
            assert made.step(sample, made.timesteps[0], sample).prev_sample.isfinite().all()
        else:
            with pytest.raises((ValueError, NotImplementedError), match="prediction_type"):
                made.step(sample, made.timesteps[0], sample)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_a_model_predicts_changes_no_timestep(prediction: str) -> None:
    for sampler, spacing in itertools.product(PLAIN, SPACINGS):
        one, other = (
            make_scheduler(sampler, own(timestep_spacing=spacing, prediction_type=kind))
            for kind in (prediction, "epsilon")
        )
        for steps in (1, 30, 45):
            one.set_timesteps(steps)
            other.set_timesteps(steps)
            assert one.timesteps.equal(other.timesteps)


def test_the_classes_that_read_eta_are_those_of_the_installed_diffusers() -> None:
    classes = {name: getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers)}
    # Those that need a library that is not installed are stand-ins from elsewhere.
    ours = {
        name: one for name, one in classes.items() if getattr(one, "__module__", "").startswith("diffusers.schedulers.")
    }
    taking = {name for name, one in ours.items() if "eta" in inspect.signature(getattr(one, "step", len)).parameters}
    assert {name for name in taking if "eta" in _names_read(ours[name].step)} == WITH_ETA


def _names_read(function: Any) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
