"""What can be known of a LoRA file from its header, without torch: its kind, and whether it fits a model.

The door reads it where the file is at hand; the worker reads all of the file, and has the last word.
"""

from collections.abc import Iterable, Sequence

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


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def method_of(names: Iterable[str]) -> str | None:
    """Return the method that wrote tensors of these names, where it is another than LoRA."""
    for name in names:
        for part, method in _METHODS.items():
            if part in name:
                return method
    return None


def no_place(names: Sequence[str]) -> str:
    """Say that a file holds what cannot be applied."""
    method = method_of(names)
    what = f" ({method}, which is not applied here)" if method else ""
    return f"it holds {listed(names)}, for which this model has no place{what}"
