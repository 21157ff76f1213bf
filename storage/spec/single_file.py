"""What a single safetensors file is, told from its header without torch: kind, family, prediction type."""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import pstdev
from typing import Any, Literal

from storage.spec.file_state import FileState, file_state
from storage.spec.safetensors_header import Header, Tensor, read_header

Kind = Literal["checkpoint", "ControlNet", "VAE", "LoRA", "embedding", "denoiser", "text encoder", "unknown"]
Prediction = Literal["epsilon", "v_prediction"]
#: The families whose configurations come with the farm, in `worker/configurations`, by the width of cross-attention.
FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
FAMILY_NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}
#: What the names of a checkpoint's UNet begin with.
UNET = "model.diffusion_model."
#: How a UNet's names begin in files that were written without that, or without half of it; and those of other parts.
_BARE_UNETS = ("input_blocks.", "diffusion_model.input_blocks.", "model.input_blocks.")
_PARTS_BESIDE = ("cond_stage_model.", "conditioner.", "first_stage_model.")
#: In a checkpoint, what each family's text encoder is called.
_TEXTS = {
    "sd1": "cond_stage_model.transformer.",
    "sd2": "cond_stage_model.model.",
    "sdxl": "conditioner.embedders.1.model.",
}
#: Of Stable Diffusion 2, this tensor varies more in the models that predict v: by more than 0.09. ComfyUI tells them
#: apart so (`SD20.model_type`); nothing else in the files does.
_TELLS_V, _MORE_THAN = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
_FORMATS = {"F16": "e", "F32": "f", "F64": "d"}
#: What takes the pooled embeddings and the sizes that a picture is drawn for: 1280 + 6 × 256 numbers of SDXL.
_SIZES = ("add_embedding.linear_1.weight", "label_emb.0.0.weight")
_SIZES_OF_SDXL = (2816,)
#: What the first tensors of other denoisers are called: what the model is.
_OTHERS = {
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX",
    "double_stream_blocks.": "HiDream",
    "cap_embedder.": "Lumina 2 or Z-Image",
    "txtfusion.": "Krea 2",
    "distilled_guidance_layer.": "Chroma",
    "transformer_blocks.": "Qwen-Image or another transformer",
    "double_layers.": "AuraFlow",
    "blocks.": "a transformer (Wan, HunyuanDiT, PixArt)",
}
#: What others than pipelines' own parts are, by the beginnings of their tensors' names.
_STRANGERS = {
    "ip_adapter.": "an IP-Adapter",
    "image_proj.": "an IP-Adapter",
    "adapter.body.": "a T2I-Adapter",
    "body.": "a T2I-Adapter or an upscaler",
    "model.0.": "an upscaler (ESRGAN)",
    "unet.conv_in.": "a whole model by Diffusers' names in one file; take its folder in Diffusers layout",
}
#: How the parts of what is too large for one file are called.
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.")
#: How a file that holds a noise schedule of EDM's kind tells so.
_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max")


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """What the header of a safetensors file says."""

    kind: Kind
    #: One of `FAMILY_NAMES`; None: another, or it cannot be told.
    family: str | None = None
    prediction: Prediction | None = None
    #: Trained to end without signal.
    zero_snr: bool = False
    #: Why this farm cannot draw with it though it is a checkpoint.
    unfit: str | None = None
    header: Header = field(default_factory=lambda: Header({}, {}), repr=False)

    @property
    def words(self) -> str:
        """Say what it is."""
        article = "an" if self.kind in ("embedding",) else "a"
        name = FAMILY_NAMES.get(self.family or "")
        if self.kind == "unknown":
            if stranger := _stranger(self.header.tensors):
                return stranger
            return f"of a kind that the farm does not know ({listed(self.header.tensors)})"
        return f"{article} {self.kind}" + (f" for {name}" if name else "")


def look_into(file: Path) -> SingleFile:
    """Return what a file is. Raises OSError, and ValueError if it is no safetensors file, a damaged one, or a part."""
    state = file_state(file)
    if (part := _PART.search(file.name)) and int(part[2]) > 1:
        raise ValueError(
            f"it is part {int(part[1])} of {int(part[2])} of a model; the farm reads models that are whole in one "
            "file, or folders in Diffusers layout"
        )
    return _look_into(str(file), state)


@lru_cache(maxsize=512)
def _look_into(file: str, _state: FileState) -> SingleFile:
    header = read_header(Path(file))
    if not header.tensors:
        raise ValueError("there is nothing in it but its header; fetch or copy it again")
    kind = kind_of(header)
    if kind != "checkpoint":
        return SingleFile(kind=kind, family=_by_width(header), header=header)
    family = _family(header)
    prediction, zero_snr = _prediction(header, family, Path(file))
    return SingleFile(
        kind=kind,
        family=family,
        prediction=prediction,
        zero_snr=zero_snr,
        unfit=_unfit(header),
        header=header,
    )


def kind_of(header: Header) -> Kind:
    """Return what kind of thing has tensors of these names."""
    names = header.tensors
    if _any(names, "control_model.", "controlnet_cond_embedding.", "input_hint_block.", "lora_controlnet"):
        return "ControlNet"
    if _any(names, UNET) or (_any(names, *_BARE_UNETS) and _any(names, *_PARTS_BESIDE)):
        return "checkpoint"
    if _any(names, "ip_adapter.", "image_proj."):
        return "unknown"
    if any(part in name for name in names for part in ("lora", "lokr", ".hada_", "oft_")):
        return "LoRA"
    if _stranger(names):
        return "unknown"
    if _any(names, "first_stage_model.", "encoder.conv_in.", "decoder.conv_in.", "vae."):
        return "VAE"
    if _any(names, "emb_params", "string_to_param") or _is_embedding(header):
        return "embedding"
    if _any(names, "down_blocks.", "transformer_blocks.", "input_blocks.", "layers.", *_OTHERS):
        return "denoiser"
    if _any(names, "text_model.", "transformer.resblocks.", "encoder.block.", "model.layers.", "model.language_model."):
        return "text encoder"
    return "unknown"


def stated(header: Header, *names: str) -> str | None:
    """Return the first of these that a file's metadata has: trainers write "None" for what they do not know."""
    values = (header.metadata.get(name, "").strip() for name in names)
    return next((value for value in values if value and value != "None"), None)


def listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    found = list(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _stranger(names: Iterable[str]) -> str | None:
    """Say what has tensors of these names, where it is no part of a pipeline that the farm draws with."""
    if any(".motion_modules." in name for name in names):
        return "a motion module (AnimateDiff)"
    return next((words for start, words in _STRANGERS.items() if _any(names, start)), None)


def _any(names: Iterable[str], *starts: str) -> bool:
    return any(name.startswith(starts) for name in names)


def _is_embedding(header: Header) -> bool:
    """Tell whether there are a few vectors and nothing else: Diffusers names them by their token, SDXL's by encoder."""
    found = list(header.tensors.values())
    if any(name.endswith((".weight", ".bias")) for name in header.tensors):
        # Those of a layer.
        return False
    return 0 < len(found) <= 2 and all(1 <= len(one.shape) <= 2 and one.dtype.startswith(("F", "BF")) for one in found)


def _family(header: Header) -> str | None:
    for family, text in _TEXTS.items():
        if _any(header.tensors, text):
            return family
    return _by_width(header)


def _by_width(header: Header) -> str | None:
    """Tell the family by the width of what a UNet attends to: its text encoders'."""
    for name, tensor in header.tensors.items():
        if name.endswith("attn2.to_k.weight") and len(tensor.shape) == 2:
            return FAMILIES.get(tensor.shape[1])
    # A small ControlNet of SDXL attends to nothing, and is told sizes and pooled embeddings as its UNet is.
    told = (tensor for name, tensor in header.tensors.items() if name.endswith(_SIZES))
    return "sdxl" if any(tensor.shape[1:] == _SIZES_OF_SDXL for tensor in told) else None


def _unfit(header: Header) -> str | None:
    names = header.tensors
    if not _any(names, UNET):
        return f"the names of its UNet do not begin with {UNET} as a checkpoint's do; fetch or write it again"
    for start, name in _OTHERS.items():
        if _any(names, UNET + start):
            return f"it is {name}, which the farm reads in Diffusers layout only"
    if any(name.endswith(("scaled_fp8", ".scale_weight")) for name in names):
        return "its eight bits have scales of their own (ComfyUI's scaled_fp8), which the farm does not read; take fp16"
    if _any(names, *_EDM):
        return "its noise schedule is EDM's (Playground 2.5 and others), which the farm's samplers do not have"
    if _any(names, "conditioner.embedders.0.model.") and not _any(names, _TEXTS["sdxl"]):
        return "it is SDXL's refiner, which draws nothing from a prompt alone"
    if not _any(names, f"{UNET}input_blocks."):
        return f"it is of a kind that the farm reads in Diffusers layout only ({listed(names)})"
    first = names.get(f"{UNET}input_blocks.0.0.weight")
    channels = first.shape[1] if first and len(first.shape) > 1 else 4
    if channels != 4:
        what = {9: "it is for inpainting", 8: "it changes given pictures (InstructPix2Pix)"}.get(channels)
        return f"{what or f'it takes {channels} channels'}, and the farm draws from prompts"
    if not _any(names, *_TEXTS.values(), "conditioner."):
        return "it has no text encoder: only the UNet is in it"
    return None


def has_averages(found: SingleFile) -> bool:
    """Tell whether a checkpoint has averages of its weights beside them (EMA), with which nothing is drawn here."""
    return _any(found.header.tensors, "model_ema.")


def has_vae(found: SingleFile) -> bool:
    """Tell whether a checkpoint has its VAE with it."""
    return _any(found.header.tensors, "first_stage_model.")


def _prediction(header: Header, family: str | None, file: Path) -> tuple[Prediction | None, bool]:
    """Return what a checkpoint predicts and whether it ends without signal, as its tensors or its metadata say.

    Only what predicts v can: of noise without signal, the noise is no prediction.

    The tensors `v_pred` and `ztsnr` are what NoobAI's checkpoints say it by and what the web UIs read; the metadata are
    ModelSpec's and those of kohya's trainer.
    """
    zero_snr = "ztsnr" in header.tensors or stated(header, "ss_zero_terminal_snr") == "True"
    said = (stated(header, "modelspec.prediction_type") or "").lower()
    if "v_pred" in header.tensors or said.startswith("v") or stated(header, "ss_v_parameterization") == "True":
        return "v_prediction", zero_snr
    if said.startswith("eps"):
        return "epsilon", False
    tensor = header.tensors.get(_TELLS_V) if family == "sd2" else None
    if tensor is not None and (numbers := _numbers(file, tensor)):
        return ("v_prediction", zero_snr) if pstdev(numbers) > _MORE_THAN else ("epsilon", False)
    return None, False


def _numbers(file: Path, tensor: Tensor) -> list[float]:
    """Read a small tensor; nothing of one whose numbers are of another kind."""
    with file.open("rb") as opened:
        opened.seek(tensor.begin)
        data = opened.read(tensor.end - tensor.begin)
    if tensor.dtype == "BF16":
        # The upper half of a single-precision number.
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
        return list(struct.unpack(f"<{tensor.numbers}f", data))
    if tensor.dtype == "F8_E5M2":
        # The upper half of a half-precision number.
        return list(
            struct.unpack(f"<{tensor.numbers}e", b"".join(b"\0" + data[at : at + 1] for at in range(len(data))))
        )
    if tensor.dtype == "F8_E4M3":
        return [_of_e4m3(byte) for byte in data]
    kind = _FORMATS.get(tensor.dtype)
    return list(struct.unpack(f"<{tensor.numbers}{kind}", data)) if kind else []


def _of_e4m3(byte: int) -> float:
    """Return an 8-bit number: sign, four bits of an exponent with a bias of 7, three of a fraction (arXiv:2209.05433).

    The one that is none counts as the largest: nothing here is larger than 448.
    """
    exponent, fraction = (byte >> 3) & 15, byte & 7
    size = fraction * 2.0**-9 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return -size if byte & 128 else size


def scheduler_settings(prediction: Prediction | None, *, zero_snr: bool) -> dict[str, Any]:
    """Return the settings of a sampler for such a model, beside those of its family.

    What ends without signal must begin there: "trailing", as in "Common Diffusion Noise Schedules and Sample Steps are
    Flawed" (arXiv 2305.08891).
    """
    settings: dict[str, Any] = {} if prediction is None else {"prediction_type": prediction}
    if zero_snr and prediction == "v_prediction":
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return settings
