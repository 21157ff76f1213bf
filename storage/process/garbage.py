"""What a long-lived process has loaded once it serves stays; only what comes later is looked through for garbage."""

import gc


def spare_what_is_loaded() -> None:
    """Have the garbage collector pass over everything that there is now.

    PyTorch, Diffusers and Transformers are a million objects that are never garbage, FastAPI, Pydantic and SQLAlchemy
    some hundred thousand. A full collection looks through them all, for up to 0.3 s in which no other thread of the
    process runs; one comes with every few models that are loaded, and with every large request.
    """
    gc.collect()
    gc.freeze()
