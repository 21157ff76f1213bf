"""How a pipeline runs on its device: where its parts are, in which layout, compiled or not, with which kernels."""

import contextlib
import gc
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from storage.spec.models import DiffusersModel
from worker.devices import Device

_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
#: The components that take time: those that denoise, and those that decode latents.
ALL_PARTS = ("unet", "transformer", "controlnet", "vae", "movq")


def tune(pipeline: Any, model: DiffusersModel, device: Device, *, parts: Collection[str] = ALL_PARTS) -> None:
    """Put a loaded pipeline onto its device and prepare it as the registry says.

    Args:
        parts: the components to prepare; the others belong to a pipeline that was prepared before.
    """
    pipeline.set_progress_bar_config(disable=True)
    place(pipeline, model, device)
    for name in parts:
        part: Any = getattr(pipeline, name, None)
        if part is None:
            continue
        if model.vae_slicing and hasattr(part, "enable_slicing"):
            part.enable_slicing()
        if model.vae_tiling and hasattr(part, "enable_tiling"):
            part.enable_tiling()
        if _channels_last(model, device):
            part.to(memory_format=torch.channels_last)
        for processor in getattr(part, "attn_processors", {}).values():
            _keep_signature(type(processor))
        if model.compile != "none":
            # Several ControlNets one by one: slots call them so.
            for one in getattr(part, "nets", [part]):
                _compile(one, model.compile)


def _keep_signature(processor: type) -> None:
    """Have the signature of an attention processor's call read once.

    Diffusers' `Attention` asks for it at each of its calls, to drop arguments that a processor does not know: 15 µs
    each time, a hundredth of the processor time of the shipped model's UNet for one picture. `inspect.signature`
    returns what stands in `__signature__`.
    """
    call = vars(processor).get("__call__")
    if inspect.isfunction(call) and not hasattr(call, "__signature__"):
        call.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]


def is_offloaded(model: DiffusersModel, device: Device) -> bool:
    """Tell whether parts of a pipeline wait elsewhere until they are needed; on a CPU there is nowhere to wait."""
    return device.kind != "cpu" and model.offload != "none"


def has_hooks(pipeline: Any) -> bool:
    """Tell whether a call of one of the parts does something else first, as where they are offloaded."""
    return any(hasattr(part, "_hf_hook") for part in pipeline.components.values())


def place(pipeline: Any, model: DiffusersModel, device: Device) -> None:
    """Put a pipeline onto its device, or have it offloaded as the registry says."""
    offload = model.offload if is_offloaded(model, device) else "none"
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device.kind)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device.kind)
    else:
        pipeline.to(device.kind)


def _compile(part: Any, mode: str) -> None:
    """Have a component compiled in place when it is first called, anew for each picture size and batch size."""
    options: dict[str, Any] = {"dynamic": False} if mode == "default" else {"dynamic": False, "mode": mode}
    if hasattr(part, "decode"):
        # Only this method of an autoencoder is used.
        part.decode = torch.compile(part.decode, **options)
    else:
        part.compile(**options)


def attention(kernel: str) -> contextlib.AbstractContextManager[Any]:
    """Prefer one kernel of scaled-dot-product attention inside the context; "auto" leaves the choice to PyTorch.

    No kernel can do everything: flash attention has no single precision and no heads as wide as those of a VAE, most
    others are missing on a CPU. What the chosen one cannot do the next one does.

    Diffusers' own `set_attention_backend` has no effect on the UNets of Stable Diffusion and SDXL.
    """
    if kernel == "auto":
        return contextlib.nullcontext()
    chosen = _KERNELS[kernel]
    preferred: contextlib.AbstractContextManager[Any] = sdpa_kernel(
        [chosen, *(other for other in _KERNELS.values() if other is not chosen)], set_priority=True
    )
    return preferred


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 inside the context, or not: PyTorch's switches are the process's, and other models have their own."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _channels_last(model: DiffusersModel, device: Device) -> bool:
    return device.kind == "cuda" if model.channels_last is None else model.channels_last


def release_memory() -> None:
    """Return to the GPU what evicted models and failed batches held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait_for_device() -> None:
    """Wait until what a GPU was called for is done; calls return before that."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
