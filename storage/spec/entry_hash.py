"""A hash of how the registry says a model is made and run: what was measured holds as long as it stays the same."""

import hashlib
import json

from storage.spec.models import DEFAULTS, Model


def entry_hash(model: Model) -> str:
    """Return a hash of all that the registry says about how a model is made and run, and of the farm's version.

    The defaults of its pictures are left out, and what makes previews of them.
    """
    # Here: commands that read the registry need not wait for it.
    from importlib.metadata import version

    said = model.model_dump(mode="json", exclude={*DEFAULTS, "batch_limit", "preview"})
    text = json.dumps([version("diffusion-farm"), said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
