"""What a sampler can do with a model: how many steps, of which predictions, and how often it calls the model.

Known without torch, from the model's own files where they are on this machine. `tests/pipelines/test_samplers.py`
compares it with the installed Diffusers for every number of steps.
"""

from storage.errors import BadSpecification
from storage.spec.model_files import OwnConfiguration, own_configuration
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import SAMPLERS, Spec

#: Diffusers' scheduler class of each sampler.
CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++ 2m": "DPMSolverMultistepScheduler",
    "dpm++ 2m karras": "DPMSolverMultistepScheduler",
    "dpm++ sde": "DPMSolverSinglestepScheduler",
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
    "PNDMScheduler": frozenset({"epsilon", "v_prediction"}),
}
_MORE_PREDICTIONS = {
    "DPMSolverMultistepScheduler": _PREDICTIONS | {"flow_prediction"},
    "DPMSolverSinglestepScheduler": _PREDICTIONS | {"flow_prediction"},
    "UniPCMultistepScheduler": _PREDICTIONS | {"flow_prediction"},
}
#: Own samplers without a noise schedule that others could use.
_OTHER_SCHEDULES = ("EDM", "FlowMatch", "CogVideoX", "Consistency")
#: Kandinsky's prior runs so many steps where none are asked for, and divides by one fewer.
_PRIOR_STEPS, _LEAST_PRIOR_STEPS = 25, 2


def predictions(sampler: str) -> frozenset[str]:
    """Return the kinds of prediction (`prediction_type`) that a sampler computes with."""
    kind = CLASSES[sampler]
    return _FEWER_PREDICTIONS.get(kind) or _MORE_PREDICTIONS.get(kind) or _PREDICTIONS


def model_calls(spec: Spec, model: Model) -> int:
    """Return how often the model is called for a picture: the steps that a worker reports."""
    steps = spec.num_inference_steps
    if not isinstance(model, DiffusersModel):
        return steps
    own = own_configuration(model)
    kind = _class_of(spec.sampler, own)
    if kind in _TWICE:
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
    most = min(own.text_encoder_layers) - own.pipeline.startswith("StableDiffusionXL")
    if spec.clip_skip > most:
        counts = " and ".join(map(str, own.text_encoder_layers))
        raise BadSpecification(
            f"clip_skip: at most {most} with the model {model.alias}, whose text encoder has {counts} layers "
            f"(given: {spec.clip_skip})"
        )


def has_prior(model: DiffusersModel, own: OwnConfiguration | None) -> bool:
    """Tell whether a model's pictures begin with steps of a prior."""
    pipeline = model.pipeline or (own.pipeline if own else "")
    return pipeline.startswith("Kandinsky") and not pipeline.startswith("Kandinsky3")


def _class_of(sampler: str | None, own: OwnConfiguration | None) -> str | None:
    if sampler is not None:
        return CLASSES[sampler]
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


def _check_fit(sampler: str, model: DiffusersModel, own: OwnConfiguration) -> None:
    if (own.scheduler or "").startswith(_OTHER_SCHEDULES):
        raise BadSpecification(
            f"sampler: the model {model.alias} has a noise schedule for its own sampler ({own.scheduler}) only; "
            "leave the sampler out"
        )
    predicted = own.scheduler_settings.get("prediction_type", "epsilon")
    if predicted not in predictions(sampler):
        able = [name for key, name in SAMPLERS.items() if predicted in predictions(key)]
        raise BadSpecification(
            f"sampler: {SAMPLERS[sampler]} cannot sample the model {model.alias}, which predicts {predicted!r}; "
            + (f"these can: {', '.join(able)}" if able else "leave the sampler out")
        )
