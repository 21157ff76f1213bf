"""Which packages are installed."""

import importlib.util
import sys


def is_here(module: str) -> bool:
    """Return whether a module can be imported, without doing so."""
    if module in sys.modules:
        # Once imported, kombu's has no specification, and looking for it raises.
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False
