"""Every way in to the farm, each behind the same interface: an order in a specification's words goes in at any of them.

An order is a mapping of a specification's fields, and beside them `n` (pictures), `priority`, `custom_id`, `labels`.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
from click import ClickException
from click.testing import CliRunner

from diffusion_farm import ApiProblem
from scheduler.cli.main import cli
from storage.errors import FarmError
from storage.objects.inputs import get_input
from tests.contract.stage import Stage

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
