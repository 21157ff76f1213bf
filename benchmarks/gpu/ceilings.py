"""What the device can do at most: the rates of matrix products and of copies, and the FLOP that a picture costs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.architectures import NAMES, make_decoder, make_unet, unet_inputs
from benchmarks.gpu.bench import Bench, dtype_name

_GIGABYTE = 1e9
_PRODUCTS = 10
#: How far counted FLOP may be from those that a configuration is known to have, before it is called another one.
_TOLERANCE = 0.005


@torch.inference_mode()
def ceilings(bench: Bench) -> None:
    """Matrix products in three precisions, and copies between the computer's memory and the device's."""
    large = bench.device == "cuda"
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        n = 8192 if large else 256
        a, b = (torch.randn(n, n, device=bench.device, dtype=torch.float32).to(dtype) for _ in range(2))
        # Several, so that the wait at the end is nothing, and the card as warm as at work.
        taken = bench.seconds(lambda a=a, b=b: [a @ b for _ in range(_PRODUCTS)], repeat=10, warm=3)  # type: ignore[misc]
        bench.note(what="gemm", dtype=dtype_name(dtype), n=n, tflops=_PRODUCTS * 2 * n**3 / taken["median"] / 1e12)
    count = 2**30 if large else 2**22
    there, beside = (torch.empty(count, dtype=torch.uint8, device=bench.device) for _ in range(2))
    pageable = torch.zeros(count, dtype=torch.uint8)
    copies: dict[str, Callable[[], Any]] = {
        "host to device, pageable": lambda: there.copy_(pageable),
        "device to device": lambda: beside.copy_(there),
    }
    if large:
        pinned = pageable.pin_memory()
        copies["host to device, pinned"] = lambda: there.copy_(pinned, non_blocking=True)
        copies["device to host, pinned"] = lambda: pinned.copy_(there, non_blocking=True)
    copies["device to host, pageable"] = lambda: pageable.copy_(there)
    for name, copy in copies.items():
        taken = bench.seconds(copy, repeat=5)
        bench.note(what=f"copy {name}", gb_per_second=count / taken["median"] / _GIGABYTE)


@torch.inference_mode()
def flop(bench: Bench) -> None:
    """Count the FLOP of each model on tensors without contents. The text encoders', under 0.1 %, are left out."""
    for name in NAMES:
        arch = bench.arch(name)
        unet = make_unet(arch, device="meta", dtype=torch.bfloat16)
        with FlopCounterMode(display=False) as of_unet:
            unet(**unet_inputs(arch, 1, device="meta", dtype=torch.bfloat16))
        decoder = make_decoder(arch, device="meta", dtype=torch.bfloat16)
        with FlopCounterMode(display=False) as of_decoder:
            decoder.decode(torch.empty(1, 4, arch.latent, arch.latent, device="meta", dtype=torch.bfloat16))
        counted = of_unet.get_total_flops() / 1e12, of_decoder.get_total_flops() / 1e12
        if arch.known and any(
            abs(one - known) > _TOLERANCE * known for one, known in zip(counted, arch.known, strict=True)
        ):
            raise ValueError(f"{name} has {counted} TFLOP, not {arch.known}: it is not the model that it should be")
        bench.note(
            model=name,
            unet_tflop=counted[0],
            decode_tflop=counted[1],
            parameters=sum(weight.numel() for weight in unet.parameters()),
        )
