"""What programs that use a farm import: `from diffusion_farm import Farm`. Needs httpx and nothing else."""

from importlib.metadata import version

from diffusion_farm.client import ApiProblem, Farm, Picture, Render

__all__ = ["ApiProblem", "Farm", "Picture", "Render"]

__version__ = version("diffusion-farm")
