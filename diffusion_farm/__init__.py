"""What programs that use a farm import: `from diffusion_farm import Farm`. Needs httpx and nothing else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_farm.client import Farm, Picture, Render
    from diffusion_farm.problems import (
        ApiProblem,
        AuthenticationProblem,
        ConflictProblem,
        IdempotencyConflictProblem,
        InvalidRequestProblem,
        NotFoundProblem,
        PermissionProblem,
        RateLimitProblem,
        ServerProblem,
    )

__all__ = [
    "ApiProblem",
    "AuthenticationProblem",
    "ConflictProblem",
    "Farm",
    "IdempotencyConflictProblem",
    "InvalidRequestProblem",
    "NotFoundProblem",
    "PermissionProblem",
    "Picture",
    "RateLimitProblem",
    "Render",
    "ServerProblem",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the commands come through this package too, and httpx takes a fifth of a second.
    if name in __all__:
        from diffusion_farm import client, problems

        return getattr(problems if name.endswith("Problem") else client, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("diffusion-farm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
