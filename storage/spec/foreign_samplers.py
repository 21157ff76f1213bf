"""Samplers by the names of other programs: each is one of ours that draws the same, or is refused with what to take.

One name can mean several things. `beta` is one schedule in the web UI and another in ComfyUI; `DPM++ 3M SDE` leaves out
the last noise level but one in the web UI, and not in ComfyUI. What is meant follows from the program that wrote it.
The formulas: modules/sd_schedulers.py and modules/sd_samplers_kdiffusion.py of the web UI 1.10, comfy/samplers.py and
comfy/k_diffusion/sampling.py of ComfyUI, Diffusers' schedulers, SCHEDULER_MAP of InvokeAI 6.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from storage.errors import BadSpecification
from storage.spec.sampler_names import (
    ABSENT,
    PLAIN,
    SAMPLERS,
    SCHEDULES,
    SOLVERS,
    WITHOUT_SCHEDULES,
    paired,
    spelled,
    split,
)

#: The web UI's schedules: its label → ours; None: what it does is not done here.
WEBUI_SCHEDULES: Mapping[str, str | None] = {
    "Uniform": "uniform",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "exponential",
    "SGM Uniform": "sgm uniform",
    "KL Optimal": None,
    "Align Your Steps": "align your steps",
    "Simple": "simple",
    "Normal": "uniform",
    "DDIM": "ddim uniform",
    "Beta": "beta",
    "Turbo": "trailing",
}
#: What the schedule Automatic means with a solver in the web UI; with any other, it is the model's own spacing here.
_AUTOMATIC: Mapping[str, str] = {
    "dpm++ 2m": "karras",
    "dpm++ sde": "karras",
    "dpm++ 2m sde": "exponential",
    "dpm++ 2m sde heun": "exponential",
    "dpm++ 3m sde": "exponential",
    "dpm2": "karras",
    "dpm2 a": "karras",
}
_COMFYUI_SCHEDULES: Mapping[str, str] = {
    "normal": "uniform",
    "karras": "karras",
    "exponential": "exponential",
    "sgm_uniform": "sgm uniform",
    "simple": "simple",
    "ddim_uniform": "ddim uniform",
    "beta": "beta timesteps",
    "kl_optimal": "kl optimal",
}
#: ComfyUI's names of samplers → our solvers. Its `ddim` is its `euler`, which without η is the same.
_COMFYUI: Mapping[str, str] = {
    "euler": "euler",
    "euler_ancestral": "euler a",
    "heun": "heun",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2 a",
    "dpmpp_sde": "dpm++ sde",
    "dpmpp_sde_gpu": "dpm++ sde",
    "dpmpp_2m": "dpm++ 2m",
    "dpmpp_2m_sde": "dpm++ 2m sde",
    "dpmpp_2m_sde_gpu": "dpm++ 2m sde",
    "dpmpp_2m_sde_heun": "dpm++ 2m sde heun",
    "dpmpp_2m_sde_heun_gpu": "dpm++ 2m sde heun",
    "ddim": "euler",
}
#: Those of which ComfyUI does something else than we by the same name.
_COMFYUI_DIFFERS: Mapping[str, str] = {
    "uni_pc": "dpmpp_2m",
    "uni_pc_bh2": "dpmpp_2m",
    "lcm": "euler_ancestral",
    "lms": "dpmpp_2m",
    "dpmpp_3m_sde": "dpmpp_2m_sde",
    "dpmpp_3m_sde_gpu": "dpmpp_2m_sde",
}
#: InvokeAI's names → ours. It has Diffusers' classes, so that those without a schedule are solvers alone.
_INVOKEAI: Mapping[str, str] = {
    "ddim": "ddim",
    "dpmpp_2m": "dpm++ 2m",
    "dpmpp_2m_k": "dpm++ 2m karras",
    "dpmpp_2m_sde": "dpm++ 2m sde",
    "dpmpp_2m_sde_k": "dpm++ 2m sde karras",
    "dpmpp_sde": "dpm++ sde uniform",
    "dpmpp_sde_k": "dpm++ sde karras",
    "euler": "euler",
    "euler_k": "euler karras",
    "euler_a": "euler a",
    "heun": "heun",
    "heun_k": "heun karras",
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2 a",
    "lcm": "lcm",
    "lms": "lms",
    "lms_k": "lms karras",
    "pndm": "pndm",
    "unipc": "unipc",
}
#: Diffusers' classes → the solver, by its settings below where it has several.
_DIFFUSERS: Mapping[str, str] = {
    "ddim": "ddim",
    "dpmsolvermultistep": "dpm++ 2m",
    "dpmsolversinglestep": "dpm++ sde",
    "dpmsolversde": "dpm++ sde uniform",
    "eulerancestraldiscrete": "euler a",
    "eulerdiscrete": "euler",
    "heundiscrete": "heun",
    "kdpm2ancestraldiscrete": "dpm2 a",
    "kdpm2discrete": "dpm2",
    "lcm": "lcm",
    "lmsdiscrete": "lms",
    "pndm": "pndm",
    "unipcmultistep": "unipc",
}
_FLAGS: Mapping[str, str] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
_CLASS = re.compile(r"\w+scheduler\b")
#: As it stands in programs: `….from_config(pipe.scheduler.config, …)`.
_FROM_CONFIG = re.compile(r"\.from_config\([\w.]*")
_OF_DPM_SOLVER = ("dpm++ 2m", "dpm++ sde")
#: Settings that may stand behind a class, and their values; nothing: the setting alone, which is true.
_SETTINGS: Mapping[str, Collection[str]] = {
    **dict.fromkeys(_FLAGS, ("", "true", "false")),
    "timestep_spacing": ("trailing",),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_order": ("2", "3"),
    "solver_type": ("midpoint", "heun"),
}
_SHOWN_SETTINGS = (
    *_FLAGS,
    *(f"{name}={'|'.join(values)}" for name, values in _SETTINGS.items() if name not in _FLAGS),
)
_WORD = re.compile(r"(\w+)[\"']?(?:\s*[=:]\s*[\"']?([\w.+-]+))?")


def sampler_of(name: str) -> str:
    """Return our name of a sampler, in whatever case, with spaces or underscores, of k-diffusion's spelling too.

    `DPM++ 2M SDE Karras`, `dpmpp_2m_sde_karras` and `k_dpmpp_2m_sde_ka` are one; so is Diffusers' class with its flags
    (`DPMSolverMultistepScheduler algorithm_type=sde-dpmsolver++ use_karras_sigmas`). Raises BadSpecification, without
    the field's name, for what is none.
    """
    bare = spelled(name)
    if bare in SAMPLERS:
        return bare
    if _CLASS.match(bare):
        return of_diffusers_words(name)
    solver, schedule = split(bare)
    if solver in ABSENT:
        raise BadSpecification(f"is not a sampler of the farm; {ABSENT[solver]} comes close")
    if solver not in SOLVERS:
        raise BadSpecification(
            f"is not a sampler; expected one of {', '.join(PLAIN.values())}, or one with a schedule "
            "(`farm samplers` lists them)"
        )
    return paired(solver, schedule)


def of_webui(name: str | None, schedule: str | None) -> tuple[str | None, list[str]]:
    """Return our name of the web UI's sampler and schedule type, and remarks; None: the model's own sampler.

    A schedule may stand in the sampler's name, as until the web UI 1.9, or beside it; no schedule is Automatic. Raises
    BadSpecification for a pair that the farm does not have.
    """
    label, beside = _webui_schedule(schedule)
    if not name or name.lower() == "automatic":
        if label is not None:
            raise BadSpecification(f"scheduler: {label} needs a sampler beside it, in sampler_name")
        return None, []
    solver, within = split(spelled(name))
    if within and beside and within != beside:
        raise BadSpecification(f"scheduler: {label}, while the name of the sampler says {SCHEDULES[within]}; give one")
    if solver not in SOLVERS:
        # The specification refuses it, with what there is.
        return name, []
    wanted = within or beside
    if solver in WITHOUT_SCHEDULES:
        remarks = [f"scheduler: ignored; {SOLVERS[solver]} has timesteps of its own"] if wanted else []
        if solver == "unipc":
            remarks.append("sampler_name: UniPC is drawn with order 2 and bh2, the web UI's own with order 3 and bh1")
        return solver, remarks
    return paired(solver, wanted or _AUTOMATIC.get(solver)), []


def _webui_schedule(given: str | None) -> tuple[str | None, str | None]:
    """Return the label and our name of a schedule of the web UI's; None for Automatic. Raises BadSpecification."""
    letters = re.sub(r"[\s_]", "", given or "automatic").lower()
    if letters in ("automatic", "none", ""):
        return None, None
    for label, ours in WEBUI_SCHEDULES.items():
        if label.replace(" ", "").lower() == letters:
            if ours is None:
                raise BadSpecification(
                    f"scheduler: {label} is not supported, for in the web UI it leaves noise in the picture; Karras "
                    "comes close"
                )
            return label, ours
    known = ", ".join(label for label, ours in WEBUI_SCHEDULES.items() if ours)
    raise BadSpecification(f"scheduler: {str(given)[:40]!r} is not a schedule; expected Automatic or one of {known}")


def of_comfyui(sampler: str, schedule: str) -> str:
    """Return our name of ComfyUI's sampler and scheduler. Raises BadSpecification for a pair that is not here."""
    said = f"{sampler[:40]} with the schedule {schedule[:40]} is not supported"
    if sampler in _COMFYUI_DIFFERS:
        raise BadSpecification(f"{said}, for ours of that name is another; {_COMFYUI_DIFFERS[sampler]} comes close")
    if sampler not in _COMFYUI:
        near = ABSENT.get(spelled(sampler).replace("euler ancestral", "euler a"))
        raise BadSpecification(f"{said}; " + (f"{near} comes close" if near else f"these are: {', '.join(_COMFYUI)}"))
    if schedule not in _COMFYUI_SCHEDULES:
        raise BadSpecification(f"{said}; schedules that are: {', '.join(_COMFYUI_SCHEDULES)}")
    return paired(_COMFYUI[sampler], _COMFYUI_SCHEDULES[schedule])


def of_invokeai(scheduler: str) -> str:
    """Return our name of InvokeAI's scheduler. Raises BadSpecification if there is none."""
    if scheduler in _INVOKEAI:
        return _INVOKEAI[scheduler]
    raise BadSpecification(f"{scheduler[:40]} is not supported; supported are {', '.join(_INVOKEAI)}")


def of_diffusers(kind: str, config: Mapping[str, Any]) -> str:
    """Return our name of a scheduler class of Diffusers with these settings. Raises BadSpecification if there is none.

    `timestep_spacing` counts where it is `trailing`; any other is what the model's own file says.
    """
    solver = _DIFFUSERS.get(kind.lower().removesuffix("scheduler"))
    if solver is None:
        raise BadSpecification(f"{kind[:60]} is not a sampler of the farm; these classes are: {', '.join(_CLASSES)}")
    solver = _by_settings(solver, config)
    schedules = [ours for flag, ours in _FLAGS.items() if config.get(flag)]
    if len(schedules) > 1:
        raise BadSpecification(f"{kind} has several schedules ({', '.join(schedules)}); give one")
    if not schedules and config.get("timestep_spacing") == "trailing" and solver not in WITHOUT_SCHEDULES:
        schedules = ["trailing"]
    if schedules and solver.startswith(("dpm2", "dpm++ 3m", "dpm++ sde")):
        if kind.lower().startswith("dpmsolversde"):
            return f"dpm++ sde {schedules[0]}"
        raise BadSpecification(
            f"{kind} with a schedule steps otherwise than what the web UI calls {SOLVERS[solver]} "
            f"{SCHEDULES[schedules[0]]}; leave the schedule out"
        )
    return solver if " uniform" in solver else paired(solver, schedules[0] if schedules else None)


def of_diffusers_words(text: str) -> str:
    """Return our name of a class of Diffusers with settings behind it, such as `… use_karras_sigmas=True`.

    Raises BadSpecification for a setting that would be ignored.
    """
    (kind, _), *settings = _WORD.findall(_FROM_CONFIG.sub(" ", text))
    for name, value in settings:
        if value.lower() not in _SETTINGS.get(name, ()):
            raise BadSpecification(
                f"{kind[:60]}: {f'{name}={value}' if value else name:.60} is no setting that can be asked for here; "
                f"these are: {', '.join(_SHOWN_SETTINGS)}"
            )
    return of_diffusers(kind, {name: value.lower() != "false" and (value or True) for name, value in settings})


def _by_settings(solver: str, config: Mapping[str, Any]) -> str:
    algorithm, order = str(config.get("algorithm_type") or ""), str(config.get("solver_order") or 2)
    stochastic = algorithm.startswith("sde-")
    if solver not in _OF_DPM_SOLVER:
        if solver == "unipc" and order != "2":
            raise BadSpecification(f"UniPC of order {order} is not a sampler of the farm; order 2 is")
        return solver
    if algorithm in ("dpmsolver", "sde-dpmsolver"):
        raise BadSpecification(f"algorithm_type {algorithm} is not a sampler of the farm; take {algorithm}++")
    if solver == "dpm++ 2m" and stochastic:
        if order == "3":
            return "dpm++ 3m sde"
        return "dpm++ 2m sde heun" if config.get("solver_type") == "heun" else "dpm++ 2m sde"
    if solver == "dpm++ 2m" and (order != "2" or config.get("solver_type") == "heun"):
        raise BadSpecification(
            "DPM++ 2M without noise is of order 2 and midpoint here; leave solver_order and solver_type out"
        )
    if solver == "dpm++ sde" and not stochastic:
        raise BadSpecification("DPMSolverSinglestepScheduler without noise is not a sampler of the farm; take DPM++ 2M")
    return solver


_CLASSES = (
    *("DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler"),
    *("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler"),
    *("PNDMScheduler", "UniPCMultistepScheduler"),
)
