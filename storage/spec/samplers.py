"""What a sampler can do with a model: how many steps, of which predictions, and how often it calls the model.

Known without torch, from the model's own files where they are on this machine. `tests/pipelines/test_samplers.py`
compares it with the installed Diffusers for every number of steps.
"""

from storage.errors import BadSpecification
from storage.spec.model_files import OwnConfiguration, own_configuration
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import Spec
from storage.spec.profiles import family_of, profile_of
from storage.spec.sampler_names import PLAIN, SAMPLERS, SCHEDULES, split

#: Diffusers' scheduler class of each solver.
CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++ 2m": "DPMSolverMultistepScheduler",
    "dpm++ 2m sde": "DPMSolverMultistepScheduler",
    "dpm++ 2m sde heun": "DPMSolverMultistepScheduler",
    "dpm++ 3m sde": "ThirdOrderSDEScheduler",
    "dpm++ sde": "DPMSolverSinglestepScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2 a": "KDPM2AncestralDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
#: Classes that call the model twice in each step but the last.
_TWICE = frozenset(
    {
        *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        *("DPMSolverSDEScheduler", "FlowMatchHeunDiscreteScheduler"),
    }
)
#: Solvers that do so with a schedule, though their class makes steps of single calls alone.
_TWICE_BY_SCHEDULE = frozenset({"dpm++ sde"})
#: Classes that take their steps out of those that the model was distilled with.
_DISTILLED = frozenset({"LCMScheduler", "TCDScheduler"})
#: With which LCMs are distilled unless their files say otherwise.
DISTILLED_STEPS = 50
_TRAINED_STEPS = 1000
#: Fewer cannot begin with the three Runge-Kutta steps of PNDM.
_LEAST_RUNGE_KUTTA_STEPS = 4
#: Classes that read η; the others ignore it in silence, CogVideoX's although they take it.
WITH_ETA = frozenset({"DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler"})
#: What models may predict, and the classes that compute with only some of it.
_PREDICTIONS = frozenset({"epsilon", "sample", "v_prediction"})
_FEWER_PREDICTIONS = {
    "EulerAncestralDiscreteScheduler": frozenset({"epsilon", "v_prediction"}),
    "KDPM2DiscreteScheduler": frozenset({"epsilon", "v_prediction"}),
    "KDPM2AncestralDiscreteScheduler": frozenset({"epsilon", "v_prediction"}),
    "PNDMScheduler": frozenset({"epsilon", "v_prediction"}),
}
_MORE_PREDICTIONS = {
    "DPMSolverMultistepScheduler": _PREDICTIONS | {"flow_prediction"},
    "DPMSolverSinglestepScheduler": _PREDICTIONS | {"flow_prediction"},
    "ThirdOrderSDEScheduler": _PREDICTIONS | {"flow_prediction"},
    "UniPCMultistepScheduler": _PREDICTIONS | {"flow_prediction"},
}
#: Fewer steps than these are no schedule of that name: its formula divides by one fewer, or begins without noise.
_LEAST_OF_SCHEDULE = {"kl optimal": 2, "align your steps": 2, "ddim uniform": 2}
#: More steps would repeat one of 1000 timesteps.
_MOST_OF_SCHEDULE = {"beta timesteps": 138}
#: Solvers that leave out one σ of a step more (`worker.rendering.noise_schedules`).
_DISCARDING = frozenset({"dpm2", "dpm2 a", "dpm++ 3m sde"})
#: Pipelines that "Align Your Steps" has noise levels for.
_ALIGNED = ("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG", "StableDiffusionXL")
#: Samplers that walk the noise levels of flow matching where the model's file asks for them.
_FLOWING = ("dpm++ 2m", "dpm++ sde", "unipc")
#: Own samplers without a noise schedule that others could use.
_OTHER_SCHEDULES = ("EDM", "FlowMatch", "CogVideoX", "Consistency")
#: Kandinsky's prior runs so many steps where none are asked for, and divides by one fewer.
_PRIOR_STEPS, _LEAST_PRIOR_STEPS = 25, 2


def predictions(sampler: str) -> frozenset[str]:
    """Return the kinds of prediction (`prediction_type`) that a sampler computes with."""
    kind = CLASSES[split(sampler)[0]]
    return _FEWER_PREDICTIONS.get(kind) or _MORE_PREDICTIONS.get(kind) or _PREDICTIONS


def model_calls(spec: Spec, model: Model) -> int:
    """Return how often the model is called for a picture: the steps that a worker reports."""
    steps = spec.num_inference_steps
    if not isinstance(model, DiffusersModel):
        return steps
    own = own_configuration(model)
    kind = _class_of(spec.sampler, own)
    solver, schedule = split(spec.sampler) if spec.sampler else (None, None)
    if kind in _TWICE or (schedule and solver in _TWICE_BY_SCHEDULE):
        calls = 2 * steps - 1
    elif kind == "PNDMScheduler":
        calls = steps + 9 if _by_runge_kutta(own) else steps + (steps > 1)
    else:
        calls = steps
    return calls + (_prior_steps(spec) if has_prior(model, own) else 0)


def check_sampler(spec: Spec, model: DiffusersModel) -> None:
    """Check that the picture's sampler can do what is asked of it, as far as that is known here.

    Raises BadSpecification with the numbers that it can do.
    """
    own = own_configuration(model)
    if spec.sampler is not None and own is not None:
        _check_fit(spec.sampler, model, own)
    if spec.eta and spec.sampler is None and own and own.scheduler and own.scheduler not in WITH_ETA:
        raise BadSpecification(
            f"eta: the model {model.alias}'s own sampler ({own.scheduler}) does not support it; the sampler DDIM does"
        )
    least, most = _steps(_class_of(spec.sampler, own), own)
    if spec.sampler is not None and spec.sampler not in PLAIN:
        least, most = _check_schedule(spec, model, own, most)
    if not least <= spec.num_inference_steps <= most:
        name = SAMPLERS[spec.sampler] if spec.sampler else f"its own sampler ({own.scheduler if own else 'unknown'})"
        nearest = least if spec.num_inference_steps < least else most
        raise BadSpecification(
            f"num_inference_steps: with {name}, the model {model.alias} takes {least} to {most} steps; "
            f"the nearest is {nearest} (given: {spec.num_inference_steps})"
        )
    if has_prior(model, own) and _prior_steps(spec) < _LEAST_PRIOR_STEPS:
        raise BadSpecification(f"prior_num_inference_steps: the prior takes {_LEAST_PRIOR_STEPS} steps or more")


def check_clip_skip(spec: Spec, model: DiffusersModel) -> None:
    """Raise BadSpecification if more layers are to be skipped than the model's text encoders have."""
    own = own_configuration(model)
    if not spec.clip_skip or own is None or not own.text_encoder_layers:
        return
    # SDXL's pipelines count from the layer before the last.
    most = min(own.text_encoder_layers) - (family_of(own.pipeline) == "StableDiffusionXL")
    if spec.clip_skip > most:
        counts = " and ".join(map(str, own.text_encoder_layers))
        raise BadSpecification(
            f"clip_skip: at most {most} with the model {model.alias}, whose text encoder has {counts} layers "
            f"(given: {spec.clip_skip})"
        )


def has_prior(model: DiffusersModel, own: OwnConfiguration | None) -> bool:
    """Tell whether a model's pictures begin with steps of a prior."""
    profile = profile_of(model.pipeline or (own.pipeline if own else None))
    return profile is not None and profile.prior


def _class_of(sampler: str | None, own: OwnConfiguration | None) -> str | None:
    if sampler is not None:
        return CLASSES[split(sampler)[0]]
    return own.scheduler if own else None


def _by_runge_kutta(own: OwnConfiguration | None) -> bool:
    """Tell whether PNDM begins with Runge-Kutta steps: only where it is the model's own and its file says no else."""
    return own is not None and own.scheduler == "PNDMScheduler" and not own.scheduler_settings.get("skip_prk_steps")


def _steps(kind: str | None, own: OwnConfiguration | None) -> tuple[int, int]:
    """Return the fewest and the most steps of a scheduler class with a model."""
    settings = own.scheduler_settings if own else {}
    trained = int(settings.get("num_train_timesteps") or _TRAINED_STEPS)
    if kind in _DISTILLED:
        most = int(settings.get("original_inference_steps") or DISTILLED_STEPS)
        return 1, min(most, trained)
    least = _LEAST_RUNGE_KUTTA_STEPS if kind == "PNDMScheduler" and _by_runge_kutta(own) else 1
    return least, trained


def _prior_steps(spec: Spec) -> int:
    return spec.prior_num_inference_steps or _PRIOR_STEPS


def _check_schedule(spec: Spec, model: DiffusersModel, own: OwnConfiguration | None, trained: int) -> tuple[int, int]:
    """Return the fewest and the most steps of a sampler's schedule. Raises BadSpecification if the model has none such.

    Args:
        trained: of how many timesteps the model is.
    """
    solver, schedule = split(str(spec.sampler))
    pipeline = model.pipeline or (own.pipeline if own else None)
    if schedule == "align your steps" and pipeline is not None and not pipeline.startswith(_ALIGNED):
        raise BadSpecification(
            f"sampler: {SCHEDULES[schedule]} has noise levels for SD 1.5 and SDXL alone, and {model.alias} is a "
            f"{pipeline}; take Karras"
        )
    more = solver in _DISCARDING
    if schedule == "ddim uniform":
        _check_divides(spec, model, trained, more=more)
    return (
        max(1, _LEAST_OF_SCHEDULE.get(str(schedule), 1) - more),
        min(trained, _MOST_OF_SCHEDULE.get(str(schedule), trained)) - more,
    )


def _check_divides(spec: Spec, model: DiffusersModel, trained: int, *, more: bool) -> None:
    """Raise BadSpecification for steps that do not divide the timesteps: every nth of them are more, or fewer."""

    def fits(steps: int) -> bool:
        return len(range(1, trained, max(trained // (steps + more), 1))) == steps + more

    steps = spec.num_inference_steps
    if not fits(steps):
        near = sorted(filter(fits, range(1, trained)), key=lambda other: abs(other - steps))[:2]
        raise BadSpecification(
            f"num_inference_steps: {SCHEDULES['ddim uniform']} takes every nth of {trained} timesteps of the model "
            f"{model.alias}, which are not {steps}; take {' or '.join(map(str, sorted(near)))}"
        )


def _check_fit(sampler: str, model: DiffusersModel, own: OwnConfiguration) -> None:
    if (own.scheduler or "").startswith(_OTHER_SCHEDULES):
        raise BadSpecification(
            f"sampler: the model {model.alias} has a noise schedule for its own sampler ({own.scheduler}) only; "
            "leave the sampler out"
        )
    if own.scheduler_settings.get("use_flow_sigmas") and sampler not in _FLOWING:
        raise BadSpecification(
            f"sampler: {SAMPLERS[sampler]} has noise levels of its own, and the model {model.alias} those of flow "
            f"matching; these can: {', '.join(SAMPLERS[name] for name in _FLOWING)}"
        )
    predicted = own.scheduler_settings.get("prediction_type", "epsilon")
    if predicted not in predictions(sampler):
        able = [name for key, name in PLAIN.items() if predicted in predictions(key)]
        raise BadSpecification(
            f"sampler: {SAMPLERS[sampler]} cannot sample the model {model.alias}, which predicts {predicted!r}; "
            + (f"these can: {', '.join(able)}" if able else "leave the sampler out")
        )
