"""How the tests have torch compile: as in use, but for what makes compilers and linkers take long."""

import ctypes
import gc
import os
from pathlib import Path
from typing import Any


def compile_here() -> None:
    """Have this process compile one kernel after another, without the C++ compiler's optimisations.

    Imports all that compiling needs: who is forked from this process does not do so again.
    """
    # Here, for it takes long, and only processes that compile need it.
    import torch
    import torch._inductor.compile_fx
    import torch._inductor.config as config
    import torch._inductor.cpp_builder as builder

    # Helper processes would each import torch, which takes longer than such small kernels.
    config.compile_threads = 1
    # What this processor can do is known; else a program of its own is compiled for each kind of vectors.
    config.cpp.vec_isa_ok = True
    # Such a process ends soon, and compiling leaves millions of small objects to look through.
    gc.disable()
    flags_of: Any = builder._get_optimization_cflags
    surroundings_of: Any = builder._get_torch_related_args

    def unoptimised(*given: Any, **named: Any) -> tuple[list[str], list[str]]:
        compiling, linking = flags_of(*given, **named)
        # Kernels of a few hundred numbers are called a few times: 1.1 s of a processor each by -O3, 0.4 s by -O0.
        return ["O0" if flag == "O3" else flag for flag in compiling if flag != "g1"], linking

    def unlinked(*given: Any, **named: Any) -> tuple[list[str], list[str], list[str]]:
        headers, folders, _ = surroundings_of(*given, **named)
        return headers, folders, []

    builder._get_optimization_cflags = unoptimised
    # Each kernel is linked with libraries of half a million names (0.42 s of a processor, 0.07 s without), which this
    # process has loaded: found there, if they are told to be found.
    builder._get_torch_related_args = unlinked
    for name in ("libtorch_cpu.so", "libtorch_python.so"):
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)
