"""The farm's samplers: a solver alone, or with a schedule of noise levels behind it (`dpm++ 2m sde karras`).

A solver alone steps at the timesteps that its class in Diffusers has for the model (`timestep_spacing` of its file). A
schedule says itself which noise levels there are, whatever the model's file says of spacing; each is computed in
`worker.rendering.noise_schedules`, and compared with its source's formula in `tests/pipelines/test_noise_schedules.py`.
What other programs call them: `storage.spec.foreign_samplers`.
"""

import re
from collections.abc import Mapping

from storage.errors import BadSpecification

#: Solvers, as people and galleries write them: our name → the name shown.
SOLVERS: Mapping[str, str] = {
    "ddim": "DDIM",
    "dpm++ 2m": "DPM++ 2M",
    "dpm++ sde": "DPM++ SDE",
    "euler": "Euler",
    "euler a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "pndm": "PNDM",
    "unipc": "UniPC",
    "dpm2": "DPM2",
    "dpm2 a": "DPM2 a",
    "dpm++ 2m sde": "DPM++ 2M SDE",
    "dpm++ 2m sde heun": "DPM++ 2M SDE Heun",
    "dpm++ 3m sde": "DPM++ 3M SDE",
}
#: Solvers with timesteps of their own, which take no schedule.
WITHOUT_SCHEDULES = frozenset({"ddim", "lcm", "pndm", "unipc"})
#: Schedules of noise levels: our name → the name shown.
SCHEDULES: Mapping[str, str] = {
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm uniform": "SGM Uniform",
    "simple": "Simple",
    "ddim uniform": "DDIM Uniform",
    "beta": "Beta",
    "beta timesteps": "Beta Timesteps",
    "kl optimal": "KL Optimal",
    "align your steps": "Align Your Steps",
    "trailing": "Trailing",
}
#: Where it comes from, and what it is, for people who choose one.
ABOUT_SCHEDULES: Mapping[str, str] = {
    "uniform": "even in timesteps, from the last one to 0: the web UI's Uniform and Normal, ComfyUI's normal",
    "karras": "Karras et al. 2022 with ρ = 7, over the model's whole noise: k-diffusion's get_sigmas_karras",
    "exponential": "even in log σ: k-diffusion's get_sigmas_exponential, and polyexponential with its default ρ = 1",
    "sgm uniform": "as uniform with one step more, without its last: the web UI's SGM Uniform, ComfyUI's sgm_uniform",
    "simple": "every (timesteps ÷ steps)th of the model's σ, rounded down: the web UI's Simple, ComfyUI's simple",
    "ddim uniform": "every ⌊timesteps ÷ steps⌋th from the second: the web UI's DDIM, ComfyUI's ddim_uniform",
    "beta": "quantiles of a Beta(0.6, 0.6) in σ: the web UI's Beta (1.10), Diffusers' use_beta_sigmas",
    "beta timesteps": "quantiles of a Beta(0.6, 0.6) in timesteps (arXiv:2407.12173): ComfyUI's beta, Forge's Beta",
    "kl optimal": "even in arctan σ, then 0: ComfyUI's kl_optimal (the web UI's leaves noise in the picture)",
    "align your steps": "Sabour et al. 2024, their eleven σ for SD 1.5 and SDXL, interpolated: the web UI's",
    "trailing": "even from the last timestep down (arXiv:2305.08891): Diffusers' trailing, Forge's Turbo",
}
#: The first samplers of the farm, then every solver alone: what messages list and tests go through.
PLAIN: Mapping[str, str] = {
    name: shown
    for solver, label in SOLVERS.items()
    for name, shown in ((solver, label), *((("dpm++ 2m karras", "DPM++ 2M Karras"),) if solver == "dpm++ 2m" else ()))
}
#: Every sampler: our name, which is what is stored → the name shown.
SAMPLERS: Mapping[str, str] = {
    **PLAIN,
    **{
        f"{solver} {schedule}": f"{label} {SCHEDULES[schedule]}"
        for solver, label in SOLVERS.items()
        if solver not in WITHOUT_SCHEDULES
        for schedule in SCHEDULES
    },
}
#: Other spellings of solvers, in small letters with spaces.
_SOLVERS_TOO: Mapping[str, str] = {
    "plms": "pndm",
    "uni pc": "unipc",
    "euler ancestral": "euler a",
    "dpm 2": "dpm2",
    "dpm 2 a": "dpm2 a",
    "dpm 2 ancestral": "dpm2 a",
    "dpm2 ancestral": "dpm2 a",
    "dpmsolver++": "dpm++ 2m",
    "dpm solver++": "dpm++ 2m",
}
#: Other spellings of schedules.
_SCHEDULES_TOO: Mapping[str, str] = {
    "normal": "uniform",
    "polyexponential": "exponential",
    "sgmuniform": "sgm uniform",
    "ays": "align your steps",
    "turbo": "trailing",
    "ka": "karras",
    "exp": "exponential",
}
#: Solvers that are asked for by name elsewhere, are not here, and what comes close.
ABSENT: Mapping[str, str] = {
    "ddim cfg++": "DDIM",
    "ddpm": "Euler a",
    "deis": "DPM++ 2M",
    "dpm adaptive": "DPM++ 2M Karras",
    "dpm fast": "DPM++ 2M Karras",
    "dpm++ 2s": "DPM++ 2M",
    "dpm++ 2s a": "DPM++ SDE Karras",
    "dpm++ 2s ancestral": "DPM++ SDE Karras",
    "er sde": "DPM++ 2M SDE Karras",
    "euler cfg pp": "Euler",
    "gradient estimation": "Euler",
    "euler a cfg pp": "Euler a",
    "heunpp2": "Heun",
    "ipndm": "PNDM",
    "ipndm v": "PNDM",
    "res multistep": "DPM++ 2M",
    "restart": "Euler a",
    "sa solver": "DPM++ 2M SDE",
    "seeds 2": "DPM++ SDE Karras",
    "seeds 3": "DPM++ SDE Karras",
    "tcd": "LCM",
    "uni pc bh2": "UniPC",
}
_SPACES = re.compile(r"[\s_-]+")
_DPM = re.compile(r"dpm ?(?:\+\+|pp) ?")


def paired(solver: str, schedule: str | None) -> str:
    """Return the sampler of a solver and a schedule. Raises BadSpecification if the solver takes none."""
    if schedule is None:
        return solver
    if solver in WITHOUT_SCHEDULES:
        raise BadSpecification(
            f"{SOLVERS[solver]} has timesteps of its own and takes no schedule such as {SCHEDULES[schedule]}; leave it "
            "out, or take Euler or DPM++ 2M with it"
        )
    return f"{solver} {schedule}"


def split(sampler: str) -> tuple[str, str | None]:
    """Split a name in small letters into its solver, which may be none of ours, and its schedule.

    `euler a` and `dpm++ 2m sde heun` are solvers alone.
    """
    if sampler in SOLVERS:
        return sampler, None
    for written in _BY_LENGTH:
        if sampler.endswith(f" {written}"):
            solver = sampler.removesuffix(f" {written}")
            return _SOLVERS_TOO.get(solver, solver), _SCHEDULES_TOO.get(written, written)
    return _SOLVERS_TOO.get(sampler, sampler), None


def schedule_of(name: str) -> str | None:
    """Return our name of a schedule, however it is spelled; None if it is none."""
    bare = spelled(name)
    found = _SCHEDULES_TOO.get(bare, bare)
    if found not in SCHEDULES:
        found = next((one for one in SCHEDULES if one.replace(" ", "") == bare.replace(" ", "")), found)
    return found if found in SCHEDULES else None


def spelled(name: str) -> str:
    """Return a name in small letters, with spaces, `dpm++ ` for `dpmpp`, and without k-diffusion's `k_`."""
    bare = _SPACES.sub(" ", name.lower()).strip().removeprefix("k ")
    bare = bare.removesuffix(" sampler").removesuffix(" scheduler")
    if not _DPM.match(bare):
        return bare
    # ComfyUI draws noise on the GPU by these names; the farm always draws it on the CPU.
    return _DPM.sub("dpm++ ", bare).replace(" gpu", "").strip()


#: `sgm uniform` ends in `uniform`: the longest is meant.
_BY_LENGTH = sorted((*SCHEDULES, *_SCHEDULES_TOO), key=len, reverse=True)
