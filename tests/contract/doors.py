"""Every way in to the farm, each behind the same interface: an order in a specification's words goes in at any of them.

An order is a mapping of a specification's fields, and beside them `n` (pictures), `priority`, `custom_id`, `labels`.
"""

import base64
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from click import ClickException
from click.testing import CliRunner
from PIL import Image

from scheduler.api.app import make_api
from scheduler.api.context import ApiContext
from scheduler.cli.api import listening
from scheduler.cli.main import cli
from scheduler.client import ApiProblem, Farm
from scheduler.services import Services, open_services
from storage.access.keys import Keys, Limits, Role
from storage.errors import FarmError
from storage.jobs.values import Published, RenderedBatch
from storage.objects.inputs import get_input
from storage.objects.object_keys import picture_key
from storage.settings import Settings

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
"""
_NUMBER = count()
_PRIORITIES = ("interactive", "normal", "bulk")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a way in made of an order."""

    #: None: it was refused.
    render_id: str | None = None
    #: The reason of a refusal.
    words: str = ""
    status: int | None = None
    remarks: tuple[str, ...] = ()


class Stage:
    """A farm in this process: SQLite, a folder, the API on a port, and a worker by hand."""

    def __init__(self, services: Services, address: str) -> None:
        self.services = services
        self.address = address
        #: To be closed; making a client takes longer than most of its requests.
        self.held = ExitStack()
        self._clients: dict[str, httpx.Client] = {}
        self._farms: dict[str, Farm] = {}
        self.key = self.new_key()
        #: Whether the worker by hand works; tests that look at what waits clear it.
        self.working = threading.Event()
        self.working.set()

    def new_key(self, owner: str = "ann", **limits: int) -> str:
        keys = Keys(self.services.database)
        return keys.create(name="test", owner=owner, role=Role.SUBMIT, limits=Limits(**limits))[1]

    def client(self, key: str | None = None) -> httpx.Client:
        key = key or self.key
        if key not in self._clients:
            headers = {"Authorization": f"Bearer {key}"}
            made = httpx.Client(base_url=self.address, headers=headers, timeout=20)
            self._clients[key] = self.held.enter_context(made)
        return self._clients[key]

    def farm(self, key: str | None = None) -> Farm:
        key = key or self.key
        if key not in self._farms:
            self._farms[key] = self.held.enter_context(Farm(self.address, key=key))
        return self._farms[key]

    def complete(self, model: str, *, limit: int = 8) -> int:
        """Render a claim's pictures; how many they were."""
        jobs = self.services.jobs
        claim = jobs.claim(model=model, worker="by hand", limit=limit)
        if claim is None:
            return 0
        made = []
        for job in claim.jobs:
            stored = self.services.objects.put(picture_key(job.render_id, job.index), png(job.spec.width))
            made.append(Published(job=job, object=stored.key, sha256=stored.sha256, bytes=stored.bytes))
        batch = RenderedBatch(
            id=claim.batch_id,
            worker="by hand",
            model=model,
            jobs=claim.jobs,
            recipe={"torch": "2.13"},
            render_seconds=1,
        )
        jobs.complete(batch, made)
        return len(made)


@contextmanager
def running_stage(folder: Path) -> Iterator[Stage]:
    """A farm whose pictures are made as soon as they wait."""
    settings = Settings(home=folder, owner="ann", webhook_private=True)
    folder.mkdir()
    (folder / "models.toml").write_text(MODELS)
    services = open_services(settings)
    listener = listening("127.0.0.1", 0)
    app = make_api(ApiContext(services, None), open_without_keys=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    stage = Stage(services, f"http://127.0.0.1:{listener.getsockname()[1]}")
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.01):
            if stage.working.is_set():
                any(stage.complete(model) for model in services.registry.models)

    threads = [
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}),
        threading.Thread(target=work),
    ]
    for thread in threads:
        thread.start()
    with stage.held:
        yield stage
    server.should_exit = True
    stopped.set()
    for thread in threads:
        thread.join()
    services.database.close()


def png(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


# -- the ways in -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Door:
    """A way in. Subclasses send an order in their own words."""

    name: str
    #: A specification's field → how this way in spells it in refusals.
    spelling: Mapping[str, str] = field(default_factory=dict)
    #: What cannot be said here: such a field is refused, or remarked upon, by its name.
    lacks: frozenset[str] = frozenset()
    #: What holds here where an order leaves it out.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: The priority of what names none, or cannot.
    priority: str = "normal"
    #: Whether events of its renders are written down.
    watched: bool = True

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        """Send an order, with this API key, under this idempotency key."""
        raise NotImplementedError


class Http(Door):
    """A way in over HTTP."""

    def post(self, stage: Stage, path: str, body: Any, key: str | None, name: str | None) -> httpx.Response:
        headers = {} if name is None else {"Idempotency-Key": name}
        client = stage.client(key)
        return client.post(path, json=body, headers=headers)

    def refused(self, answer: httpx.Response) -> Outcome | None:
        if answer.is_success:
            return None
        told = answer.json()
        words = told["error"]["message"] if isinstance(told.get("error"), dict) else told["detail"]
        return Outcome(words=str(words), status=answer.status_code)

    def uploaded(self, stage: Stage, rows: list[dict[str, Any]], purpose: str, key: str | None) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        client = stage.client(key)
        file = {"file": ("rows.jsonl", text.encode())}
        return str(client.post("/v1/files", files=file, data={"purpose": purpose}).json()["id"])


class Fields(Http):
    """POST /v1/renders, the fields once."""

    def body(self, stage: Stage, asked: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        del stage, key
        return dict(asked)

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        answer = self.post(stage, "/v1/renders", self.body(stage, asked, key), key, name)
        if refused := self.refused(answer):
            return refused
        return Outcome(render_id=answer.json()["id"], remarks=tuple(answer.json()["remarks"]))


_OF_A_CALL = ("n", "priority")


class Lists(Fields):
    """POST /v1/renders, every field as a list in `product`."""

    def body(self, stage: Stage, asked: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        del stage, key
        call = {name: value for name, value in asked.items() if name in (*_OF_A_CALL, "seed")}
        return {**call, "product": {name: [value] for name, value in asked.items() if name not in call}}


class Rows(Fields):
    """POST /v1/renders with a manifest of one row."""

    def body(self, stage: Stage, asked: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        call = {name: value for name, value in asked.items() if name in _OF_A_CALL}
        row = {name: value for name, value in asked.items() if name not in call}
        return {**call, "manifest": self.uploaded(stage, [row], "manifest", key)}


class Clock(Fields):
    """A schedule that is added and fired by hand."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        assert name is None
        schedule = f"schedule {next(_NUMBER)}"
        answer = self.post(
            stage, "/v1/schedules", {"name": schedule, "cron": "@yearly", "render": dict(asked)}, key, None
        )
        if refused := self.refused(answer):
            return refused
        remarks = tuple(answer.json()["remarks"])
        fired = self.post(stage, f"/v1/schedules/{schedule}/run-now", None, key, None)
        return self.refused(fired) or Outcome(render_id=fired.json()["render_id"], remarks=remarks)


def _openai(asked: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in asked.items() if name not in ("width", "height")}
    if "width" in asked or "height" in asked:
        body["size"] = f"{asked.get('width', 64)}x{asked.get('height', 64)}"
    return body


class Images(Http):
    """OpenAI's images."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        body = {**_openai(asked), "response_format": "url"}
        answer = self.post(stage, "/v1/images/generations", body, key, name)
        if refused := self.refused(answer):
            return refused
        return Outcome(render_id=answer.json()["id"], remarks=tuple(answer.json()["remarks"]))


class Batches(Http):
    """OpenAI's batches: a file of one line."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        body = _openai({field: value for field, value in asked.items() if field != "custom_id"})
        line = {
            "custom_id": asked.get("custom_id", "line"),
            "method": "POST",
            "url": "/v1/images/generations",
            "body": body,
        }
        file = self.uploaded(stage, [line], "batch", key)
        answer = self.post(
            stage, "/v1/batches", {"input_file_id": file, "endpoint": "/v1/images/generations"}, key, name
        )
        if refused := self.refused(answer):
            return refused
        client = stage.client(key)
        newest = client.get("/v1/renders", params={"limit": 1}).json()["renders"][0]["id"]
        return Outcome(render_id=newest, remarks=tuple(answer.json()["remarks"]))


_WEB_UI = {"num_inference_steps": "steps", "guidance_scale": "cfg_scale", "sampler": "sampler_name", "n": "batch_size"}


class WebUI(Http):
    """AUTOMATIC1111's web UI."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        body = {_WEB_UI.get(field, field): value for field, value in asked.items() if field != "control_images"}
        if "model" in body:
            body["override_settings"] = {"sd_model_checkpoint": body.pop("model")}
        if "control_images" in asked:
            images = [self._inline(stage, reference) for reference in asked["control_images"]]
            body["alwayson_scripts"] = {"controlnet": {"args": [{"image": image} for image in images]}}
        answer = self.post(stage, "/sdapi/v1/txt2img", body, key, name)
        if refused := self.refused(answer):
            return refused
        client = stage.client(key)
        newest = client.get("/v1/renders", params={"limit": 1}).json()["renders"][0]["id"]
        return Outcome(render_id=newest, remarks=tuple(json.loads(answer.json()["info"])["remarks"]))

    def _inline(self, stage: Stage, reference: str) -> str:
        """Pictures come within the request here: what is not stored is no picture."""
        try:
            return base64.b64encode(get_input(stage.services.objects, reference)).decode()
        except FarmError:
            return base64.b64encode(reference.encode()).decode()


_REPLICATE = {"sampler": "scheduler", "n": "num_outputs"}


class Predictions(Http):
    """Replicate's predictions."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        given = {_REPLICATE.get(field, field): value for field, value in asked.items() if field != "model"}
        body = {"version": asked.get("model", "tiny"), "input": given}
        answer = self.post(stage, "/v1/predictions", body, key, name)
        if refused := self.refused(answer):
            return refused
        return Outcome(render_id=answer.json()["id"], remarks=tuple(answer.json()["remarks"]))


class Python(Door):
    """The client for Python."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        try:
            render = stage.farm(key).submit(**asked, idempotency_key=name)
        except ApiProblem as problem:
            return Outcome(words=str(problem), status=problem.status)
        return Outcome(render_id=render.id, remarks=tuple(render.remarks))


_OPTIONS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "negative_prompt": "negative",
    "control_images": "control",
    "loras": "lora",
    "prompt_weighting": "weighting",
    "n": "repeat",
}


class CommandLine(Door):
    """`farm render`, in this process."""

    def send(
        self, stage: Stage, asked: Mapping[str, Any], *, key: str | None = None, name: str | None = None
    ) -> Outcome:
        assert key is None
        words = [] if name is None else ["--once", name]
        for field_, value in asked.items():
            if field_ != "prompt":
                option = f"--{_OPTIONS.get(field_, field_).replace('_', '-')}"
                values = [f"{lora}={scale}" for lora, scale in value.items()] if field_ == "loras" else value
                for one in values if isinstance(values, list) else [values]:
                    words += [option, str(one)]
        environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
        command = ["render", "--no-wait", "--json", *words, "--", asked["prompt"]]
        result = CliRunner().invoke(cli, command, env=environment, standalone_mode=False)
        if result.exception is not None:
            error = result.exception
            return Outcome(words=error.format_message() if isinstance(error, ClickException) else str(error))
        remarks = re.findall(r"^(.*) \(\d+ pictures?\)$", result.stderr, re.MULTILINE)
        return Outcome(render_id=json.loads(result.stdout)["id"], remarks=tuple(remarks))
