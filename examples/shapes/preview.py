"""Fits the map from latents to colours by which pictures are seen while they are denoised, by least squares."""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from examples.shapes.drawings import pictures
from examples.shapes.samples import sample
from worker.rendering.latent_rgb import FILE_NAME, LatentRgb, written

#: Of 256 cells each.
_DRAWINGS = 512
_BATCH = 64


@torch.no_grad()
def fit(folder: Path) -> float:
    """Write the map for an exported model into its folder; return which share of the colours' variance it explains.

    It is fitted to what the decoder makes of latents, not to the drawings: a preview is to look as its picture will.
    """
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    rng = random.Random(1)
    cells, colours = [], []
    for _ in range(0, _DRAWINGS, _BATCH):
        drawn = pictures([sample(rng).drawing for _ in range(_BATCH)]) * 2 - 1
        latents = vae.encode(drawn).latent_dist.mean
        side = drawn.shape[-1] // latents.shape[-1]
        made = functional.avg_pool2d(vae.decode(latents).sample.clamp(-1, 1), side)
        # As samplers have them.
        cells.append((latents * vae.config.scaling_factor).permute(0, 2, 3, 1).flatten(0, 2))
        colours.append(made.permute(0, 2, 3, 1).flatten(0, 2))
    known, wanted = torch.cat(cells), torch.cat(colours)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    found = torch.linalg.lstsq(known, wanted).solution
    left = ((known @ found - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()
    *factors, bias = [tuple(round(float(value), 4) for value in row) for row in found]
    how = (
        f"examples/shapes/preview.py: least squares over {_DRAWINGS} drawings, explains {1 - left:.1%} of the variance"
    )
    (folder / FILE_NAME).write_text(written(LatentRgb.model_validate({"factors": factors, "bias": bias}), how))
    return float(1 - left)
