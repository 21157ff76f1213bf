"""How the tests have torch compile: as in use, but for the C++ compiler's optimisations."""

import gc
from typing import Any


def compile_here(*, vectors: bool) -> None:
    """Have this process compile one kernel after another, without the C++ compiler's optimisations.

    Without `vectors` kernels are not those of use either: for where only graphs are counted.
    """
    # Here, for it takes long, and only processes that compile need it.
    import torch._inductor.config as config
    import torch._inductor.cpp_builder as builder

    # Helper processes would each import torch, which takes longer than such small kernels.
    config.compile_threads = 1
    # Such a process ends soon, and compiling leaves millions of small objects to look through.
    gc.disable()
    if not vectors:
        # How loops are tiled for them is a tenth of what writing kernels takes.
        config.cpp.simdlen = 1
    flags_of: Any = builder._get_optimization_cflags

    def unoptimised(*given: Any, **named: Any) -> tuple[list[str], list[str]]:
        compiling, linking = flags_of(*given, **named)
        # Kernels of a few hundred numbers are called a few times: 1.1 s of a processor each by -O3, 0.4 s by -O0.
        return ["O0" if flag == "O3" else flag for flag in compiling if flag != "g1"], linking

    builder._get_optimization_cflags = unoptimised
