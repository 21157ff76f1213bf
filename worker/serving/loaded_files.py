"""The files of a loaded model: whether others lie in their place, as where somebody copies a newer checkpoint there."""

import logging
import time

from storage.spec.model_states import FileStates, are_replaced, are_whole, file_states
from storage.spec.models import Model

log = logging.getLogger(__name__)

#: What is the same after so long is not being written.
_MOMENT_SECONDS = 0.1
#: How long to wait for the rest of a file that nobody seems to write; after that, loading it says what is wrong.
_PATIENCE_SECONDS = 60.0


class LoadedFiles:
    """Made before a model is loaded. Whoever asks costs a few calls of the system for each file, and reads none."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loaded = file_states(model)
        self._seen: FileStates = {}
        self._seen_at = 0.0

    def are_same(self) -> bool:
        """Tell whether they lie there still; what is gone is as good as ever where it was loaded."""
        return not are_replaced(self._loaded, file_states(self._model))

    def are_replaced(self) -> bool:
        """Tell whether others lie there, whole. While these are written, what is loaded goes on."""
        now = file_states(self._model)
        if not are_replaced(self._loaded, now):
            return False
        if now != self._seen:
            self._seen, self._seen_at = now, time.monotonic()
            time.sleep(_MOMENT_SECONDS)
            now = file_states(self._model)
        if now == self._seen and (are_whole(now) or time.monotonic() - self._seen_at > _PATIENCE_SECONDS):
            return True
        log.info("files of a loaded model are being written; it goes on as it is", extra={"model": self._model.alias})
        return False
