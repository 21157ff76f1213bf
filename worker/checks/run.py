"""All checks of one model, in order: what is found is told as it is found."""

import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from PIL import Image, ImageDraw

from storage.errors import ModelUnavailable, OutOfMemory, RenderFailed
from storage.objects.inputs import reference_of
from storage.settings import Settings
from storage.spec.entry_hash import entry_hash
from storage.spec.file_marks import file_marks
from storage.spec.model_checks import CheckFinding, ModelCheck
from storage.spec.models import DiffusersModel
from storage.spec.registry import Registry
from worker.checks import measures, proofs
from worker.checks.drawing import Drawer, Drawn, Pictures
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources, LoadedModel
from worker.rendering.input_cache import InputCache

#: In this order; what comes first is of most use to whoever stops.
CHECKS = ("loading", "seed", "batch", "strangers", "prompts", "sizes", "memory", "pace", "precision")


class Teller:
    """Tells what is done and found: a line of JSON each, for the command that started this process."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._doing, self._steps = "", 0

    def doing(self, check: str) -> None:
        self._doing, self._steps = check, 0
        self._tell({"doing": check, "place": CHECKS.index(check), "of": len(CHECKS)})

    def step(self) -> None:
        """Tell of a call of the model. Raises BrokenPipeError once nobody listens."""
        self._steps += 1
        self._tell({"doing": self._doing, "place": CHECKS.index(self._doing), "of": len(CHECKS), "calls": self._steps})

    def found(self, finding: CheckFinding) -> None:
        self._tell({"found": finding.model_dump(mode="json")})

    def done(self, check: ModelCheck) -> None:
        self._tell({"check": check.model_dump(mode="json")})

    def failed(self, message: str, code: int) -> None:
        self._tell({"failed": message, "code": code})

    def _tell(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps({"event": event}) + "\n")
        self._stream.flush()


class SilhouetteOnly:
    """The one conditioning image, for models with ControlNets: a white square on black."""

    def __init__(self) -> None:
        image, file = Image.new("RGB", (512, 512)), io.BytesIO()
        ImageDraw.Draw(image).rectangle((128, 128, 384, 384), fill="white")
        image.save(file, "PNG")
        self._data = file.getvalue()
        self.reference = reference_of(self._data)

    def get(self, key: str) -> bytes:
        del key
        return self._data


class ModelCheckRun:
    """The checks of one model on one device."""

    def __init__(
        self, settings: Settings, registry: Registry, model: DiffusersModel, *, device: Device, tell: Teller
    ) -> None:
        self._registry, self._model, self._device, self._tell = registry, model, device, tell
        image = SilhouetteOnly()
        self._resources = BackendResources(
            inputs=InputCache(image),
            loras=registry.loras,
            embeddings=registry.embeddings,
            home=settings.home.absolute(),
        )
        self._pictures = Pictures(registry, model, image.reference, device)
        self._findings: list[CheckFinding] = []
        self._remarks: list[str] = []

    def all(
        self, open_backend: Callable[[BackendResources], Backend], name: Callable[[str], str], *, is_shared: bool
    ) -> ModelCheck:
        """Check everything. Raises ModelUnavailable, DeviceBroken, BadSpecification.

        Args:
            name: how workers of this device are called by what they learn, from the hardware's name.
            is_shared: whether a worker renders on this device now.
        """
        backend = open_backend(self._resources)
        # Before they are read: what is found is not told of files that take their place meanwhile.
        files = file_marks(self._model)
        self._tell.doing("loading")
        drawer, first = self._loaded(backend)
        room = measures.Room(backend=backend, is_shared=is_shared)
        self._prove("seed", lambda: proofs.seed_twice(drawer, self._pictures))
        self._prove("batch", lambda: proofs.alone_or_in_a_batch(drawer, self._pictures))
        if self._prove("strangers", lambda: proofs.among_strangers(drawer, self._pictures)).held is False:
            self._remarks.append(proofs.ON_NEIGHBOURS)
        self._prove("prompts", lambda: proofs.prompt_list(drawer, self._pictures))
        self._tell.doing("sizes")
        sizes, multiple = proofs.size_multiples(drawer, self._pictures)
        self._found(sizes)
        self._tell.doing("memory")
        taken, own_bytes = measures.memory(drawer, self._pictures, room, multiple)
        self._found(taken)
        self._tell.doing("pace")
        paces, best = measures.pace(drawer, self._pictures, room, own_bytes)
        if is_shared:
            paces = paces.model_copy(update={"words": f"{paces.words}; beside a worker, so no limit is made of it"})
        self._found(paces)
        self._prove("precision", lambda: self._precision(backend, drawer, first))
        return ModelCheck(
            entry=entry_hash(self._model),
            files=files,
            at=time.time(),
            device=str(self._device),
            device_name=name(backend.hardware_name()),
            weights=first.recipe["weights"],
            dtype=first.recipe["dtype"],
            width=self._pictures.width,
            height=self._pictures.height,
            findings=tuple(self._findings),
            pictures=None if is_shared else best,
            multiple=multiple,
            remarks=tuple(self._remarks),
        )

    def _loaded(self, backend: Backend) -> tuple[Drawer, Drawn]:
        """Load the model and draw a first picture, a smaller one if memory runs out."""
        began = time.monotonic()
        loaded = backend.load(self._model)
        seconds = time.monotonic() - began
        drawer = Drawer(loaded, self._tell.step)
        told = []
        while True:
            try:
                [first] = drawer.draw([self._pictures.of(0)])
                break
            except OutOfMemory:
                size = f"{self._pictures.width}×{self._pictures.height}"
            if loaded.save_memory():
                told.append(f"{size} does not fit, unless the VAE decodes in tiles (vae_slicing, vae_tiling)")
            elif self._pictures.halve():
                told.append(f"{size} does not fit: checked at {self._pictures.width}×{self._pictures.height}")
            else:
                raise ModelUnavailable(f"model {self._model.alias}: not even {size} fits in memory", out_of_memory=True)
        self._remarks += told
        words = f"loaded in {seconds:.1f} s as {first.recipe['dtype']}"
        words += ", renders by slots" if drawer.loop is not None else ", renders batch by batch"
        self._found(CheckFinding(check="loading", held=not told, words="; ".join([words, *told])))
        return drawer, first

    def _precision(self, backend: Backend, drawer: Drawer, first: Drawn) -> CheckFinding:
        if first.recipe["dtype"] == "float32":
            return CheckFinding(check="precision", held=None, words="not applicable: pictures are rendered in float32")
        specs = self._pictures.some(2)
        half = [drawn for spec in specs for drawn in drawer.draw([spec])]
        single = self._model.model_copy(update={"dtype": "float32"})
        if backend.available_memory() < backend.needed_memory(single) * 2:
            return CheckFinding(
                check="precision", held=None, words="not checked: there is no memory for float32 beside it"
            )
        try:
            loaded: LoadedModel = backend.load(single)
            finding = measures.half_precision(half, specs, Drawer(loaded, self._tell.step).draw)
        except (OutOfMemory, ModelUnavailable) as error:
            return CheckFinding(check="precision", held=None, words=f"not checked: in float32, {error}")
        if finding.held is False:
            self._remarks.append(f"{first.recipe['dtype']} spoils pictures of it, which are rendered twice: set dtype")
        return finding

    def _prove(self, check: str, prove: Callable[[], CheckFinding]) -> CheckFinding:
        self._tell.doing(check)
        try:
            finding = prove()
        except (RenderFailed, OutOfMemory) as error:
            finding = CheckFinding(check=check, held=False, words=f"failed: {error}")
        return self._found(finding)

    def _found(self, finding: CheckFinding) -> CheckFinding:
        self._findings.append(finding)
        self._tell.found(finding)
        return finding


def without_checks(registry: Registry) -> Registry:
    """Return a registry that knows nothing of earlier checks: what they found is to be found anew."""
    return registry.with_checks(None)
