"""What hears of the steps of a pipeline's calls, whichever of Diffusers' two ways a pipeline has to tell of them."""

from collections.abc import Callable, Sequence
from typing import Any

from storage.spec.picture import Spec
from worker.rendering.backend import Look, NoPreview, SmallPictures
from worker.rendering.denoised import StepMade, denoised, recorded
from worker.rendering.previews import Previewer, small_pictures, unpacked
from worker.rendering.torch_faults import as_fault

#: Called with the positions of specifications whose step it was, and a way to look at them.
Looks = Callable[[Sequence[int], Look], None]


class StepListener:
    """Tells of each step of a batch, which may be made by several calls, and lets its pictures be looked at."""

    def __init__(self, on_step: Callable[[], None], looks: Looks | None, previewer: Previewer) -> None:
        self._on_step = on_step
        self._looks = looks
        self._previewer = previewer
        self._made: StepMade | None = None

    def alone(self, position: int, look: Callable[[], SmallPictures]) -> None:
        """Tell of a step of one picture by itself, and how it is looked at."""
        self._on_step()
        if self._looks is not None:
            self._looks([position], lambda _: look())

    def listeners(self, pipeline: Any, positions: Sequence[int], spec: Spec) -> dict[str, Any]:
        """Return the callbacks after a step under the two names, new and old, of which a pipeline knows one.

        Args:
            positions: of the specifications that the call makes, in its order; `spec` is one of them.
        """
        self._made = None
        if self._looks is not None:
            recorded(pipeline.scheduler, self._note)

        def look(places: Sequence[int]) -> SmallPictures:
            try:
                return self._seen(pipeline, places, spec)
            except NoPreview:
                raise
            except Exception as error:  # noqa: BLE001 - it is raised as a fault below, and must not end the call
                fault = as_fault(error)
            raise fault

        def after() -> None:
            self._on_step()
            # A prior's steps are none of the pictures'.
            if self._looks is not None and self._made is not None:
                self._looks(positions, look)

        def after_step(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            after()
            return tensors

        return {"callback_on_step_end": after_step, "callback": lambda *_: after()}

    def _seen(self, pipeline: Any, places: Sequence[int], spec: Spec) -> SmallPictures:
        """Look at some of the pictures whose step was told last. Raises whatever libraries raise."""
        if self._made is None:
            raise NoPreview("there was no step to look at")
        latents = denoised(pipeline.scheduler, self._made.rows(places))
        cells = unpacked(pipeline, latents, (spec.height, spec.width), self._previewer.channels)
        return small_pictures(self._previewer, cells)

    def _note(self, made: StepMade) -> None:
        self._made = made
