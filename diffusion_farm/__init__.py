"""What programs that use a farm import: `from diffusion_farm import Farm`. Needs httpx and nothing else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_farm.client import ApiProblem, Farm, Picture, Render

__all__ = ["ApiProblem", "Farm", "Picture", "Render"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the commands come through this package too, and httpx takes a fifth of a second.
    if name in __all__:
        from diffusion_farm import client

        return getattr(client, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("diffusion-farm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
