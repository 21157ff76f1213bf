"""A farm in this process: SQLite, a folder, the API on a port, and a worker by hand."""

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image
from sqlalchemy import event, make_url

from diffusion_farm import Farm
from scheduler.api.access import Open
from scheduler.api.arriving import Connection
from scheduler.api.context import ApiContext
from scheduler.cli.api import listening
from scheduler.services import open_services
from storage.access.keys import Keys, Limits, Role
from storage.broker.tickets import Tickets
from storage.database import schema
from storage.database.connection import Database
from storage.jobs.values import Claim, Published, RenderedBatch
from storage.objects.object_keys import picture_key
from storage.settings import Settings
from tests.shared_routes import make_api_sharing_routes
from tests.sqlite_tables import tables_as_bytes

MODELS = """
default = "tiny"

[models.tiny]
kind = "diffusers"
source = "somewhere/tiny"
pipeline = "StableDiffusionPipeline"
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 5.0

[models.net]
kind = "diffusers"
source = "somewhere/tiny"
pipeline = "StableDiffusionPipeline"
controlnets = ["somewhere/net"]
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 5.0

[models.xl]
kind = "diffusers"
source = "somewhere/xl"
pipeline = "StableDiffusionXLPipeline"
width = 64
height = 64

[models.weighted]
kind = "diffusers"
source = "somewhere/tiny"
pipeline = "StableDiffusionPipeline"
prompt_weighting = "compel"
width = 64
height = 64

[models.toy]
kind = "simulated"
width = 64
height = 64

[loras.ink]
source = "somewhere/ink"
"""


def _make_tables(settings: Settings) -> None:
    if settings.database_url is None:
        Path(str(make_url(settings.database).database)).write_bytes(tables_as_bytes())
    else:
        with closing(Database(settings.database_url)) as database:
            schema.upgrade(database)


class Stage:
    """A farm in this process: SQLite, a folder, the API on a port, and a worker by hand."""

    def __init__(self, context: ApiContext, address: str, *, keyed: bool = True) -> None:
        self.context = context
        self.services = context.services
        self.address = address
        #: To be closed; making a client takes longer than most of its requests.
        self.held = ExitStack()
        self._clients: dict[str | None, httpx.Client] = {}
        self._farms: dict[str, Farm] = {}
        self.key = self.new_key() if keyed else ""
        #: Whether the worker by hand works; tests that look at what waits clear it.
        self.working = threading.Event()
        self.working.set()
        #: Something may wait: the worker by hand looks.
        self.changed = threading.Event()
        event.listen(self.services.database.engine, "commit", lambda _connection: self.changed.set())

    def new_key(self, owner: str = "ann", **limits: int) -> str:
        keys = Keys(self.services.database)
        return keys.create(name="test", owner=owner, role=Role.SUBMIT, limits=Limits(**limits))[1]

    def client(self, key: str | None = None) -> httpx.Client:
        key = key or self.key
        return self._client(key, {"Authorization": f"Bearer {key}"})

    def keyless(self) -> httpx.Client:
        return self._client(None, {})

    def _client(self, key: str | None, headers: dict[str, str]) -> httpx.Client:
        if key not in self._clients:
            made = httpx.Client(base_url=self.address, headers=headers, timeout=90)
            self._clients[key] = self.held.enter_context(made)
        return self._clients[key]

    def farm(self, key: str | None = None) -> Farm:
        key = key or self.key
        if key not in self._farms:
            self._farms[key] = self.held.enter_context(Farm(self.address, key=key))
        return self._farms[key]

    def complete(self, model: str, *, limit: int = 8) -> int:
        """Render a claim's pictures; how many they were."""
        claim = self.services.jobs.claim(model=model, worker="by hand", limit=limit)
        return 0 if claim is None else self.finish(claim)

    def finish(self, claim: Claim) -> int:
        """Store the pictures of a claim, and complete it."""
        made = []
        for job in claim.jobs:
            stored = self.services.objects.put(picture_key(job.render_id, job.index), png(job.spec.width))
            made.append(Published(job=job, object=stored.key, sha256=stored.sha256, bytes=stored.bytes))
        batch = RenderedBatch(
            id=claim.batch_id,
            worker="by hand",
            model=claim.jobs[0].spec.model,
            jobs=claim.jobs,
            recipe={"torch": "2.13"},
            render_seconds=1,
        )
        self.services.jobs.complete(batch, made)
        return len(made)


@contextmanager
def running_stage(
    folder: Path,
    *,
    keyed: bool = True,
    without_keys: Open = Open.TO_THIS_MACHINE,
    models: str = MODELS,
    tickets: Tickets | None = None,
    **told: Any,
) -> Iterator[Stage]:
    """A farm whose pictures are made as soon as they wait, without a broker unless there are tickets; `told`: settings.

    With a database's address, one of several machines.
    """
    settings = Settings.model_validate({"home": folder, "owner": "ann", "webhook_private": True, **told})
    folder.mkdir()
    _make_tables(settings)
    (folder / "models.toml").write_text(models)
    services = open_services(settings)
    listener = listening("127.0.0.1", 0)
    context = ApiContext(services, tickets, waits_read_seconds=0.01, events_read_seconds=0.05)
    app = make_api_sharing_routes(context, without_keys=without_keys)
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, log_level="warning", lifespan="on"))
    stage = Stage(context, f"http://127.0.0.1:{listener.getsockname()[1]}", keyed=keyed)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            # Not for ever: a test may let it work again.
            stage.changed.wait(0.05)
            stage.changed.clear()
            # Asked first: a look costs a fraction of a claim for each model, and nobody else can write during a claim.
            if stage.working.is_set():
                any(stage.complete(model) for model in services.jobs.best_waiting(services.registry.models))

    serve = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    threads = [serve, threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    try:
        with stage.held:
            yield stage
    finally:
        # Whoever still waits is answered, as when `farm api` is stopped.
        context.ending.set()
        stage.changed.set()
        server.should_exit = True
        stopped.set()
        for thread in threads:
            thread.join()
        services.database.close()


def png(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()
