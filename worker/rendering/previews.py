"""Small pictures of what is being denoised, for those that somebody watches: made on the device, fetched later."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import AutoencoderTiny
from PIL import Image
from torch.nn import functional

from storage.errors import ModelUnavailable
from storage.spec.model_files import named_folder, public_source
from storage.spec.models import DiffusersModel
from worker.rendering.backend import NoPreview, SmallPictures
from worker.rendering.latent_rgb import LatentRgb, known_map, own_map
from worker.rendering.own_memory import copy_parts
from worker.rendering.weights import folder_of

#: The longest side of a preview, in pixels: what is smaller stays so, and costs less.
SIDE = 256


class Previewer(Protocol):
    """What makes small pictures of latents, (n, channels, height, width): (n, 3, height, width), −1…1."""

    @property
    def channels(self) -> int: ...

    def __call__(self, latents: torch.Tensor) -> torch.Tensor: ...


class LinearMap:
    """A pixel for each cell of the latents: a matrix of a few numbers, by the model's family or its own."""

    def __init__(self, numbers: LatentRgb) -> None:
        self.channels = numbers.channels
        self._factors, self._bias = torch.tensor(numbers.factors), torch.tensor(numbers.bias)

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        if self._factors.device != latents.device:
            self._factors, self._bias = self._factors.to(latents.device), self._bias.to(latents.device)
        return torch.einsum("nchw,cr->nrhw", latents.float(), self._factors) + self._bias[:, None, None]


class TinyDecoder:
    """An `AutoencoderTiny`, such as TAESD: sharper, and a few hundredths of what the model's own decoder takes."""

    def __init__(self, vae: Any) -> None:
        self.channels = int(vae.config.latent_channels)
        self._vae = vae

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        # It was trained on latents as samplers have them.
        made: torch.Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return made.float()


@dataclass(frozen=True, kw_only=True)
class NoPreviewer:
    """What stands for the previewer of a model that has none."""

    why: str
    channels: int = 0

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        del latents
        raise NoPreview(self.why)


def previewer_of(pipeline: Any, model: DiffusersModel) -> Previewer:
    """Return what makes previews of a model: the decoder that its entry names, its own map, or that of its latents.

    Raises ModelUnavailable if what is named does not fit the model.
    """
    if model.safety_checker:
        return NoPreviewer(why=f"pictures of {model.alias} are shown once its safety checker has passed them")
    denoiser = getattr(pipeline, "decoder_pipe", pipeline)
    vae = getattr(denoiser, "vae", None)
    if model.preview is not None:
        return TinyDecoder(_tiny(model, pipeline, vae))
    try:
        own = own_map(None if model.is_single_file else named_folder(model))
    except ValueError as error:
        return NoPreviewer(why=f"model {model.alias}: {error}")
    numbers = own if own is not None else None if vae is None else known_map(vae)
    if numbers is None:
        return NoPreviewer(why=f"it is not known how latents of the model {model.alias} look")
    return LinearMap(numbers)


def _tiny(model: DiffusersModel, pipeline: Any, vae: Any) -> Any:
    named = model.preview
    if named is None:
        raise TypeError("no decoder is named")
    dtype = pipeline.dtype
    found = AutoencoderTiny.from_pretrained(
        folder_of(named), revision=named.revision, variant=named.variant, use_safetensors=True, torch_dtype=dtype
    )
    copy_parts([found])
    own = None if vae is None else vae.config.get("latent_channels") or vae.config.get("z_dim")
    if found.config.latent_channels != own:
        raise ModelUnavailable(
            f"preview: {public_source(named)} decodes latents of {found.config.latent_channels} channels, and those of "
            f"{model.alias} have {own or 'none'}; correct or leave out `preview` in its entry"
        )
    return found.to(pipeline._execution_device).eval().requires_grad_(False)


def unpacked(pipeline: Any, latents: torch.Tensor, size: tuple[int, int], channels: int) -> torch.Tensor:
    """Return latents as (n, channels, height, width), however a pipeline's transformer has them.

    Args:
        size: height and width of the picture, in pixels.

    Raises NoPreview for an order that is not known.
    """
    if latents.dim() == 5:
        # Of a video: its first frame.
        latents = latents[:, :, 0]
    if latents.dim() == 3 and type(pipeline).__name__.startswith("Flux2"):
        # FLUX.2's tokens are read as FLUX.1's are, four cells of 32 channels in each.
        n, tokens, width = latents.shape
        columns = size[1] // (pipeline.vae_scale_factor * 2)
        if columns and tokens % columns == 0 and width == channels * 4:
            cells = latents.view(n, tokens // columns, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
            return cells.reshape(n, channels, tokens // columns * 2, columns * 2)
    elif latents.dim() == 3 and hasattr(pipeline, "_unpack_latents"):
        try:
            found: torch.Tensor = pipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
        except (TypeError, RuntimeError):
            raise _strange(pipeline) from None
        return unpacked(pipeline, found, size, channels)
    if latents.dim() != 4 or latents.shape[1] != channels:
        raise _strange(pipeline)
    return latents


def _strange(pipeline: Any) -> NoPreview:
    return NoPreview(f"it is not known how a {type(pipeline).__name__} arranges its latents")


def small_pictures(previewer: Previewer, latents: torch.Tensor) -> SmallPictures:
    """Ask the device for previews of latents, (n, channels, height, width). Does not wait for it.

    Raises NoPreview.
    """
    timed = _Timer(latents.device)
    made = previewer(latents)
    longest = max(made.shape[2:])
    if longest > SIDE:
        made = functional.interpolate(made, scale_factor=SIDE / longest, mode="area")
    pixels = (made.nan_to_num() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    fetched = timed.copied(pixels.contiguous())

    def fetch() -> tuple[Sequence[Image.Image], float]:
        host, seconds = fetched()
        return [Image.fromarray(one) for one in host.numpy()], seconds

    return SmallPictures(fetch=fetch)


class _Timer:
    """Copies to the computer's memory beside other work, and tells how long the device needed for it and before it."""

    def __init__(self, device: torch.device) -> None:
        self._began = _event() if device.type == "cuda" else None

    def copied(self, pixels: torch.Tensor) -> Callable[[], tuple[torch.Tensor, float]]:
        began = self._began
        if began is None:
            return lambda: (pixels.cpu(), 0.0)
        # Pinned, or the copy would wait for all that the device was asked for before.
        host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
        host.copy_(pixels, non_blocking=True)
        ended = _event()

        def fetched() -> tuple[torch.Tensor, float]:
            ended.synchronize()
            return host, began.elapsed_time(ended) / 1000

        return fetched


def _event() -> Any:
    made = torch.cuda.Event(enable_timing=True)
    made.record()
    return made
