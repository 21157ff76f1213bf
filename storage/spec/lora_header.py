"""What can be known of a LoRA file from its header, without torch: its kind, and whether it fits a model.

The door reads it where the file is at hand; the worker reads all of the file, and has the last word.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from storage.spec.model_files import named_folder, remembered
from storage.spec.models import Lora
from storage.spec.safetensors_header import read_header

#: How the two matrices of a module are called: the one that takes the input, and the other.
UPS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)
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
    ".lora_mid.": "a LoCon in Tucker's form",
    "emb_params": "an embedding",
    "string_to_param": "an embedding",
}
#: Pipelines that apply a LoKr.
_WITH_LOKR = ("Flux2", "ZImage")


def wrong_in_header(lora: Lora, pipeline: str | None) -> str | None:
    """Return why a LoRA cannot be applied to any model of a pipeline class, as far as its file is here and says so."""
    path = named_folder(lora)
    if path is None or not path.exists():
        return None
    return _wrong_in(path, lora.weight_name, pipeline or "", remembered())


@lru_cache(maxsize=256)
def _wrong_in(path: Path, weight_name: str | None, pipeline: str, _when: int) -> str | None:
    if path.is_dir():
        wanted = path / (weight_name or "pytorch_lora_weights.safetensors")
        files = [wanted] if wanted.is_file() else [] if weight_name else sorted(path.glob("*.safetensors"))
        if len(files) > 1:
            return f"there are {len(files)} files: {listed([file.name for file in files])}; set weight_name to one"
        if not files:
            return f"there is no {weight_name or 'safetensors file'} in it"
        path = files[0]
    try:
        names = list(read_header(path).tensors)
    except OSError:
        return None
    except ValueError as error:
        return f"not a safetensors file: {error}"
    if (method := method_of(names)) and not (method == "a LoKr" and pipeline.startswith(_WITH_LOKR)):
        return f"it holds {method}, which is not applied here"
    if not any(part in name for name in names for part in ("lora", "lokr")):
        return f"it holds no LoRA, but {listed(names)}"
    second = [name for name in names if name.startswith(("lora_te2_", "text_encoder_2."))]
    if second and pipeline.startswith(("StableDiffusionPipeline", "StableDiffusionControlNet", "StableDiffusionPAG")):
        return f"it changes a second text encoder ({second[0]}), which this model does not have: it was made for SDXL"
    return None


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
