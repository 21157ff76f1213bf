"""What a device process has loaded once it serves stays; only what comes later is looked through for garbage."""

import gc


def spare_what_is_loaded() -> None:
    """Have the garbage collector pass over everything that there is now.

    PyTorch, Diffusers and Transformers are a million objects that are never garbage. A full collection looks through
    them all, for 0.3 s in which no other thread of the process runs, and one comes with every few models that are
    loaded.
    """
    gc.collect()
    gc.freeze()
