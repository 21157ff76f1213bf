"""What PyTorch and Diffusers raise, as faults of the farm."""

import torch

from storage.errors import DeviceBroken, OutOfMemory, RenderFailed, RenderFault
from storage.rules.faults import Fault

#: What CUDA's libraries say, in a plain RuntimeError, when they cannot allocate.
_OUT_OF_MEMORY = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
#: After these, every call fails for as long as the process and its CUDA context live.
_BROKEN = (
    "CUDA error",
    "HIP error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
)


def as_fault(error: Exception) -> RenderFault:
    """Return the fault that an exception means, without a reference to it: its traceback keeps tensors alive."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, RenderFault):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _says(error, _OUT_OF_MEMORY):
        return OutOfMemory(message)
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and _says(error, _BROKEN)):
        return DeviceBroken(message)
    # Pipelines raise these about their arguments; anything else may be this machine's fault.
    about_arguments = isinstance(error, ValueError | TypeError | NotImplementedError)
    return RenderFailed(message, Fault.BAD_SPECIFICATION if about_arguments else Fault.PIPELINE_ERROR)


def _says(error: Exception, phrases: tuple[str, ...]) -> bool:
    return any(phrase in str(error) for phrase in phrases)
