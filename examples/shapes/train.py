"""Trains the model `shapes`, part by part; a part that was stopped goes on from its last checkpoint.

python -m examples.shapes.train --steps 9000 unet     trains one part
python -m examples.shapes.train export                writes the trained parts where the farm looks for them
python -m examples.shapes.train preview               fits the map from latents to colours for what was exported
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional

import worker
from examples.shapes import parts
from examples.shapes.drawings import SIDE, pictures, silhouettes
from examples.shapes.preview import fit
from examples.shapes.prompts import wish, words
from examples.shapes.reader import Pupil, Reader
from examples.shapes.samples import Sample, sample, weights_of
from examples.shapes.training import Training, half, loaded, trained

#: How many drawings the UNet sees, each with ever new prompts and noise.
_DRAWINGS = 60_000
_BATCH = 64
#: Larger pictures than the native size, so that they too show one shape: width and height.
_OTHER_SIZES = [(96, 64), (64, 96), (96, 96), (128, 128)]
#: From this step on, one step in six is with these.
_OTHER_SIZES_FROM = 9000


# -- pictures to latents and back ------------------------------------------------------------------------------


def train_vae(work: Path, steps: int) -> None:
    vae = _channels_last(parts.vae())

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(step)
        torch.manual_seed(step)
        wanted = _pixels([sample(rng) for _ in range(24)])
        with half():
            latents = vae.encode(wanted).latent_dist
            made = vae.decode(latents.sample()).sample
        return _differences(made.float(), wanted) | {"kl": 1e-5 * latents.kl().mean() / latents.mean[0].numel()}

    Training("vae", vae, work, steps=steps, rate=1e-3).run(loss_of)


def train_decoder(work: Path, steps: int) -> None:
    """Let the decoder alone go on: from latents that are not quite right, as a UNet's are, and mostly small shapes."""
    vae = _channels_last(trained("vae", parts.vae(), work))
    decoder = _decoder_of(vae).requires_grad_(True)
    deviation = loaded(work / "latents.pt")["deviation"][:, None, None]

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(step)
        torch.manual_seed(step)
        samples = [_mostly_small(rng) for _ in range(24)]
        wanted = _pixels(samples)
        # Elsewhere there is nothing but background.
        near = functional.max_pool2d(silhouettes([of.drawing for of in samples])[:, None], 9, stride=1, padding=4)
        weight = 0.2 + near / near.mean()
        with half():
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mean
            noise = torch.rand(len(wanted), 1, 1, 1) * 0.25 * deviation * torch.randn_like(latents)
            made = vae.decode(latents + noise).sample
        return _differences(made.float() * weight, wanted * weight)

    Training("decoder", decoder, work, steps=steps, rate=7e-4).run(loss_of)


def _mostly_small(rng: random.Random) -> Sample:
    """Three in four small."""
    found = sample(rng)
    return sample(rng) if found.drawing.size == "large" and rng.random() < 0.75 else found


def _decoder_of(vae: Any) -> torch.nn.ModuleList:
    """The part of the VAE that makes pictures of latents."""
    return torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])


def _differences(made: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    error = made - wanted
    return {
        "absolute": error.abs().mean(),
        "squared": error.square().mean(),
        # Differences between neighbours: edges are to be sharp.
        "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
    }


# -- words to states -------------------------------------------------------------------------------------------


def train_text(work: Path, steps: int) -> None:
    pupil = Pupil()

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(step)
        samples = [sample(rng) for _ in range(128)]
        wishes = [wish(of.drawing, rng) for of in samples]
        weights = [weights_of(of, asked, rng) for of, asked in zip(samples, wishes, strict=True)]
        states = pupil.reader([words(asked, rng) for asked in wishes], weights, rng)
        return pupil.losses(states, samples, wishes)

    Training("text", pupil, work, steps=steps, rate=1e-3).run(loss_of)


# -- states to latents -----------------------------------------------------------------------------------------


def train_unet(work: Path, steps: int) -> None:
    pupil = trained("text", Pupil(), work)
    samples, latents = _encoded(work)
    canvases = _Canvases(work)
    unet = _channels_last(parts.unet())
    # The text encoder was taught with this pooling.
    unet.add_embedding.load_state_dict(pupil.pooled.state_dict())
    unet.set_attn_processor(AttnProcessor())

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(step)
        torch.manual_seed(step)
        if step >= _OTHER_SIZES_FROM and step % 6 == 0:
            some, clean = canvases.encoded(rng)
        else:
            chosen = rng.sample(range(len(samples)), _BATCH)
            some, clean = [samples[n] for n in chosen], latents[chosen]
        states = _states(pupil.reader, some, rng)
        noised = _Noised(clean)
        with half():
            made = unet(noised.latents, noised.times, states).sample
        return {"velocity": functional.mse_loss(made.float(), noised.velocity)}

    Training("unet", unet, work, steps=steps, rate=1e-3, ema=0.9995).run(loss_of)


def train_controlnet(work: Path, steps: int) -> None:
    pupil = trained("text", Pupil(), work)
    samples, latents = _encoded(work)
    unet = _channels_last(trained("unet", parts.unet(), work))
    net = _channels_last(parts.controlnet(unet))
    for module in (unet, net):
        module.set_attn_processor(AttnProcessor())

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = random.Random(step)
        torch.manual_seed(step)
        chosen = rng.sample(range(len(samples)), _BATCH)
        states = _states(pupil.reader, [samples[n] for n in chosen], rng)
        shown = silhouettes([samples[n].drawing for n in chosen])[:, None].expand(-1, 3, -1, -1)
        noised = _Noised(latents[chosen])
        with half():
            down, middle = net(noised.latents, noised.times, states, shown, return_dict=False)
            made = unet(
                *(noised.latents, noised.times, states),
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        return {"velocity": functional.mse_loss(made.float(), noised.velocity)}

    Training("controlnet", net, work, steps=steps, rate=5e-4).run(loss_of)


class _Canvases:
    """Drawings of other sizes, encoded when asked for: as many pixels as a batch of native ones has."""

    def __init__(self, work: Path) -> None:
        saved = loaded(work / "latents.pt")
        self._mean, self._deviation = saved["mean"][:, None, None], saved["deviation"][:, None, None]
        self._vae = _channels_last(trained("vae", parts.vae(), work))

    @torch.no_grad()
    def encoded(self, rng: random.Random) -> tuple[list[Sample], torch.Tensor]:
        width, height = rng.choice(_OTHER_SIZES)
        samples = [sample(rng, width=width, height=height) for _ in range(_BATCH * SIDE * SIDE // (width * height))]
        with half():
            latents = self._vae.encode(_pixels(samples)).latent_dist.mean
        return samples, (latents.float() - self._mean) / self._deviation


class _Noised:
    """Latents at random moments of the noise schedule, and the velocity that is to be learned from them."""

    _schedule = parts.noise_schedule()

    def __init__(self, clean: torch.Tensor) -> None:
        clean = clean.float().to(memory_format=torch.channels_last)
        noise = torch.randn_like(clean)
        self.times = torch.randint(0, self._schedule.config.num_train_timesteps, (len(clean),))
        self.latents = self._schedule.add_noise(clean, noise, self.times)
        self.velocity = self._schedule.get_velocity(clean, noise, self.times)


@torch.no_grad()
def _states(reader: Reader, samples: Sequence[Sample], rng: random.Random) -> torch.Tensor:
    """What the text encoder says of prompts for these drawings; one in ten of no prompt at all."""
    wishes = [wish(of.drawing, rng) for of in samples]
    weights = [weights_of(of, asked, rng) for of, asked in zip(samples, wishes, strict=True)]
    texts = ["" if rng.random() < 0.1 else words(asked, rng) for asked in wishes]
    with half():
        states: torch.Tensor = reader(texts, weights, rng)
    return states.float()


@torch.no_grad()
def _encoded(work: Path) -> tuple[list[Sample], torch.Tensor]:
    """Samples and their latents, each channel of mean 0 and deviation 1; encoded once."""
    rng = random.Random(1)
    samples = [sample(rng) for _ in range(_DRAWINGS)]
    file = work / "latents.pt"
    if not file.exists():
        vae = _channels_last(trained("vae", parts.vae(), work))
        with half():
            found = [vae.encode(_pixels(samples[n : n + _BATCH])).latent_dist.mean for n in range(0, _DRAWINGS, _BATCH)]
        latents = torch.cat([some.float() for some in found])
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        latents = (latents - mean[:, None, None]) / deviation[:, None, None]
        torch.save({"latents": latents.half(), "mean": mean, "deviation": deviation}, file)
    saved: dict[str, torch.Tensor] = loaded(file)
    return samples, saved["latents"]


def _pixels(samples: Sequence[Sample]) -> torch.Tensor:
    return (pictures([of.drawing for of in samples]) * 2 - 1).to(memory_format=torch.channels_last)


def _channels_last(module: Any) -> Any:
    return module.to(memory_format=torch.channels_last)


# -- together --------------------------------------------------------------------------------------------------


@torch.no_grad()
def export(work: Path, folder: Path) -> None:
    """Write the pipeline and, where it was trained, the ControlNet in Diffusers layout, in half precision."""
    reader = trained("text", Pupil(), work).reader
    vae = trained("vae", parts.vae(), work)
    trained("decoder", _decoder_of(vae), work)
    saved = loaded(work / "latents.pt")
    _fold(vae, saved["mean"], saved["deviation"])
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=reader.encoder,
        tokenizer=reader.tokens,
        unet=trained("unet", parts.unet(), work),
        scheduler=parts.noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder / "shapes", safe_serialization=True)
    fit(folder / "shapes")
    if (work / "controlnet.pt").exists():
        net = trained("controlnet", parts.controlnet(parts.unet()), work)
        net.half().save_pretrained(folder / "shapes-silhouette", safe_serialization=True)


def _fold(vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Put the normalisation of latents into the VAE's own 1 × 1 convolutions, so that its stock scaling factor fits."""
    scale = deviation * vae.config.scaling_factor
    n = len(mean)
    vae.quant_conv.weight[:n] /= scale[:, None, None, None]
    vae.quant_conv.bias[:n] = (vae.quant_conv.bias[:n] - mean) / scale
    vae.quant_conv.bias[n:] -= 2 * scale.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= scale[None, :, None, None]


_PARTS = {
    "vae": train_vae,
    "text": train_text,
    "unet": train_unet,
    "controlnet": train_controlnet,
    "decoder": train_decoder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*_PARTS, "export", "preview"])
    parser.add_argument("--work", type=Path, default=Path(".shapes"), help="checkpoints and logs (default .shapes)")
    parser.add_argument("--steps", type=int, default=1000, help="where the training of the part ends, from its start")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=Path(worker.__file__).parent / "models", help="for export")
    asked = parser.parse_args()
    asked.work.mkdir(exist_ok=True)
    torch.set_default_device(asked.device)
    if asked.part == "export":
        export(asked.work, asked.folder)
    elif asked.part == "preview":
        fit(asked.folder / "shapes")
    else:
        _PARTS[asked.part](asked.work, asked.steps)


if __name__ == "__main__":
    main()
