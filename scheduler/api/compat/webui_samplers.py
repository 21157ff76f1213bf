"""The web UI's samplers and schedules (1.10), by the names that its clients send, as samplers of the farm."""

import re
from collections.abc import Iterator
from typing import Any

from storage.errors import BadSpecification
from storage.spec.picture import SAMPLERS

#: Other names in the web UI of samplers that the farm has.
_ALIASES = {
    "plms": "pndm",
    "k_ddim": "ddim",
    "k_dpmpp_2m": "dpm++ 2m",
    "k_dpmpp_2m_ka": "dpm++ 2m karras",
    "k_dpmpp_sde": "dpm++ sde",
    "k_euler": "euler",
    "k_euler_a": "euler a",
    "k_euler_ancestral": "euler a",
    "k_heun": "heun",
    "k_lcm": "lcm",
    "k_lms": "lms",
}
_UNIFORM = "uniform"
#: The web UI's schedules of noise levels, by their names in small letters.
_SCHEDULES = {
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "sgm uniform": "SGM Uniform",
    "kl optimal": "KL Optimal",
    "align your steps": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "ddim": "DDIM",
    "beta": "Beta",
    "turbo": "Turbo",
}
#: What the schedule Automatic means with a sampler; with any other, it is Uniform.
_AUTOMATIC = {
    "dpm++ 2m": "karras",
    "dpm++ sde": "karras",
    "dpm++ 2m sde": "exponential",
    "dpm++ 2m sde heun": "exponential",
    "dpm++ 2s a": "karras",
    "dpm++ 3m sde": "exponential",
    "dpm2": "karras",
    "dpm2 a": "karras",
}
#: Samplers with timesteps of their own: in the web UI, too, a schedule beside them changes nothing.
_WITHOUT_SCHEDULES = ("ddim", "pndm", "unipc")


def sampler_of(name: str | None, schedule: str | None) -> tuple[str | None, list[str]]:
    """Return the farm's name of a sampler with its schedule, and remarks; None: the model's own sampler.

    A schedule may stand in the sampler's name, as until the web UI 1.9, or beside it. Raises BadSpecification for a
    pair that the farm does not have.
    """
    beside = _schedule(schedule)
    if not name or name.lower() == "automatic":
        if beside is not None:
            raise BadSpecification(f"scheduler: {_SCHEDULES[beside]} needs a sampler beside it, in sampler_name")
        return None, []
    base, within = _split(_ALIASES.get(name.strip().lower(), name.strip().lower()))
    if within and beside and within != beside:
        raise BadSpecification(
            f"scheduler: {_SCHEDULES[beside]}, while the name of the sampler says {_SCHEDULES[within]}; give one"
        )
    if not any(known == base or (known.startswith(f"{base} ") and _split(known)[0] == base) for known in SAMPLERS):
        # The specification refuses it, with the names that there are.
        return name, []
    wanted = within or beside
    if base in _WITHOUT_SCHEDULES:
        ignored = [f"scheduler: ignored; {SAMPLERS[base]} has timesteps of its own"] if wanted else []
        return base, ignored
    return _with_schedule(base, wanted)


def schedules() -> Iterator[dict[str, Any]]:
    """Yield the schedules that the farm has with some sampler, in the web UI's form."""
    had = {_split(name)[1] for name in SAMPLERS} | {_UNIFORM}
    for name, label in (("automatic", "Automatic"), *_SCHEDULES.items()):
        if name == "automatic" or name in had:
            key = name.replace(" ", "_")
            yield {"name": key, "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False}


def _schedule(given: str | None) -> str | None:
    """Return a schedule's name in small letters; None for Automatic."""
    # `SGM Uniform`, `sgm_uniform` and `SGMUniform` are one.
    letters = re.sub(r"[\s_]", "", given or "automatic").lower()
    if letters in ("automatic", "none", ""):
        return None
    for name in _SCHEDULES:
        if name.replace(" ", "") == letters:
            return name
    known = ", ".join(_SCHEDULES.values())
    raise BadSpecification(f"scheduler: {str(given)[:40]!r} is not a schedule; expected Automatic or one of {known}")


def _split(name: str) -> tuple[str, str | None]:
    """Split the schedule off a sampler's name."""
    for schedule in _SCHEDULES:
        if name.endswith(f" {schedule}"):
            return name.removesuffix(f" {schedule}"), schedule
    return name, None


def _with_schedule(base: str, wanted: str | None) -> tuple[str, list[str]]:
    schedule = wanted or _AUTOMATIC.get(base, _UNIFORM)
    if f"{base} {schedule}" in SAMPLERS:
        return f"{base} {schedule}", []
    if schedule == _UNIFORM and base in SAMPLERS:
        return base, []
    if wanted is None and base in SAMPLERS:
        label = _SCHEDULES[schedule]
        return base, [
            f"scheduler: {label}, the web UI's own for {SAMPLERS[base]}, is not supported; drawn with Uniform"
        ]
    have = [_SCHEDULES[found] for name in SAMPLERS for start, found in [_split(name)] if start == base and found]
    have += [_SCHEDULES[_UNIFORM]] * (base in SAMPLERS)
    raise BadSpecification(
        f"scheduler: {_SCHEDULES[schedule]} is not supported with this sampler; supported: {', '.join(have)}"
    )
