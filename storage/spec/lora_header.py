"""What can be known of a LoRA file from its header, without torch: its kind, and whether it fits a model.

The door reads it where the file is at hand; the worker reads all of the file, and has the last word.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from storage.spec.lora_base import SDXL, Bases, bases_of, bases_of_pipeline, cannot_be_told, is_wrong, named
from storage.spec.model_files import is_there, named_folder, remembered
from storage.spec.models import Lora
from storage.spec.safetensors_header import read_header

#: The file's name that Diffusers' trainers give.
USUAL_NAME = "pytorch_lora_weights.safetensors"
#: How the two matrices of a module are called: the one that takes the input, and the other.
UPS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)
#: Matrices that take a layer's whole input, by the ends of names: their first side is the rank, their second its width.
_TAKING_ALL = (*(down for down, _ in UPS), "_lora.down.weight", ".lora_A.default.weight", ".hada_w1_b")
#: Those, and a LoKr's, which take a part of it.
DOWNS = (*_TAKING_ALL, ".lokr_w2_b", ".lokr_w1_b")
#: How the lengths that a DoRA gives each output's weights are called, by the ends of names.
MAGNITUDES = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
#: The layer of FLUX.1 that takes latents; made for two pictures', it is of FLUX.1 Depth, Canny and Fill.
_CONTROL, _TWO_PICTURES = "x_embedder.lora_A.weight", (128,)
#: What other methods than LoRA write, by a part of the names: the method.
_METHODS = {
    ".hada_": "a LoHa",
    ".lokr_": "a LoKr",
    ".oft_": "an OFT",
    ".boft_": "a BOFT",
    ".diff_b": "differences of biases",
    ".diff": "differences of whole weights",
    ".on_input": "an IA³",
    ".w_norm": "differences of norms",
    ".b_norm": "differences of norms",
    ".glora_": "a GLoRA",
    # LyCORIS's own names of it, beside ".a2." and ".b2.".
    ".a1.weight": "a GLoRA",
    ".b1.weight": "a GLoRA",
    ".lora_mid.": "a LoCon in Tucker's form",
    "emb_params": "an embedding",
    "string_to_param": "an embedding",
}
#: The beginnings of the names of pipelines that apply more than LoRAs.
_APPLIED = {
    "a LoHa": ("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG", "StableDiffusionXL"),
    "a LoCon in Tucker's form": (
        *("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG", "StableDiffusionXL"),
    ),
    "a LoKr": (
        *("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG", "StableDiffusionXL"),
        *("Flux2", "ZImage"),
    ),
}


def wrong_in_header(lora: Lora, pipeline: str | None, text_width: int | None = None) -> str | None:
    """Return why a LoRA cannot be applied to any model of a pipeline class, as far as its file is here and says so.

    Args:
        text_width: what the model's cross-attention takes, where that is known.
    """
    path = named_folder(lora)
    if path is None or not is_there(path):
        return None
    return _wrong_in(path, lora.weight_name, (pipeline or "", text_width), remembered())


def base_is_open(lora: Lora, pipeline: str | None, text_width: int | None) -> str | None:
    """Return of which kinds of models a LoRA may be, where one of them is the model's and its file tells no more."""
    path = named_folder(lora)
    if path is None or not is_there(path):
        return None
    return _open_base(path, lora.weight_name, (pipeline or "", text_width), remembered())


@lru_cache(maxsize=256)
def _open_base(path: Path, weight_name: str | None, model: tuple[str, int | None], _when: int) -> str | None:
    try:
        header = read_header(_file_at(path, weight_name))
    except (OSError, ValueError):
        return None
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    bases = bases_of(shapes, header.metadata, _TAKING_ALL)
    return named(bases) if cannot_be_told(bases, list(shapes), *model) else None


def wrong_scale(lora: Lora, scale: float) -> str | None:
    """Return why a LoRA cannot be applied at a scale, as far as its file is here: a DoRA's magnitudes have none."""
    path = named_folder(lora)
    if scale == 1 or path is None or not is_there(path) or not _has_magnitudes(path, lora.weight_name, remembered()):
        return None
    return f"it is a DoRA, whose magnitudes have no scale: its scale must be 1 (given: {scale:g})"


@lru_cache(maxsize=256)
def _has_magnitudes(path: Path, weight_name: str | None, _when: int) -> bool:
    try:
        file = _file_at(path, weight_name)
        return any(name.endswith(MAGNITUDES) for name in read_header(file).tensors)
    except (OSError, ValueError):
        return False


def _file_at(path: Path, weight_name: str | None) -> Path:
    """Return a LoRA's file. Raises ValueError if a folder has none, or more."""
    if not path.is_dir():
        return path
    wanted = path / (weight_name or USUAL_NAME)
    files = [wanted] if wanted.is_file() else [] if weight_name else sorted(path.glob("*.safetensors"))
    if len(files) > 1:
        raise ValueError(
            f"there are {len(files)} files: {listed([file.name for file in files])}; set weight_name to one"
        )
    if not files:
        raise ValueError(f"there is no {weight_name or 'safetensors file'} in it")
    return files[0]


@lru_cache(maxsize=256)
def _wrong_in(path: Path, weight_name: str | None, model: tuple[str, int | None], _when: int) -> str | None:
    pipeline, _ = model
    try:
        path = _file_at(path, weight_name)
    except ValueError as error:
        return str(error)
    try:
        header = read_header(path)
    except OSError:
        return None
    except ValueError as error:
        return f"not a safetensors file: {error}"
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    names = list(shapes)
    if (method := method_of(names)) and not (
        method in _APPLIED and (not pipeline or pipeline.startswith(_APPLIED[method]))
    ):
        return f"it holds {method}, which is not applied here"
    if not names:
        return "there is nothing in it but its header; fetch or copy it again"
    if not any(part in name for name in names for part in ("lora", "lokr", "hada")):
        return f"it holds no LoRA, but {listed(names)}"
    if any(name.endswith(_CONTROL) and shape[1:] == _TWO_PICTURES for name, shape in shapes.items()):
        return "it is a Control LoRA of FLUX.1, which draws from a picture, and this farm draws with FLUX from prompts"
    return _wrong_base(bases_of(shapes, header.metadata, _TAKING_ALL), names, *model)


def half_of_a_pair(names: Collection[str]) -> str | None:
    """Return what is wrong with a file of these names that has one matrix of a layer and not the other."""
    known = set(names)
    for name in names:
        for ends in UPS:
            for end, other in (ends, ends[::-1]):
                if name.endswith(end) and name.removesuffix(end) + other not in known:
                    return f"of the two matrices of a layer one is missing: there is {name} alone; fetch it again"
    return None


def _wrong_base(bases: Bases | None, names: Sequence[str], pipeline: str, text_width: int | None) -> str | None:
    """Return whether a LoRA was made for models of another kind than those of a pipeline class."""
    second = [name for name in names if name.startswith(("lora_te2_", "text_encoder_2."))]
    if second and pipeline.startswith(("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG")):
        made = named(bases) or SDXL
        return f"it changes a second text encoder ({second[0]}), which this model does not have: made for {made}"
    if not is_wrong(bases, pipeline, text_width):
        return None
    own = bases_of_pipeline(pipeline, text_width) or frozenset()
    [kind] = own if len(own) == 1 else [None]
    said = named(bases) or "models with a UNet (Stable Diffusion 1 or 2, SDXL)"
    return f"it was made for {said}, and this model is another kind ({', '.join(filter(None, (kind, pipeline)))})"


def made_for(shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
    """Return for which kind of model a LoRA was made, by its layers, or else by what its trainer says; None: unknown.

    Args:
        shapes: of the file's tensors, by name.
    """
    bases = bases_of(shapes, metadata, _TAKING_ALL)
    return named(bases) if bases and (len(bases) == 1 or named(bases) == "FLUX") else None


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def method_of(names: Iterable[str]) -> str | None:
    """Return the method that wrote tensors of these names, where it is another than LoRA."""
    for name in names:
        for part, method in _METHODS.items():
            # Not `.diffusion_model`.
            if name.endswith(part) if part.startswith(".diff") else part in name:
                return method
    return None


def no_place(names: Sequence[str]) -> str:
    """Say that a file holds what cannot be applied."""
    method = method_of(names)
    what = f" ({method}, which is not applied here)" if method else ""
    return f"it holds {listed(names)}, for which this model has no place{what}"
