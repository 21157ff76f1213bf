"""The door of OpenAI's clients: `POST /v1/images/generations`, and errors in their own words."""

import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest

from scheduler.api.access import Submitter
from scheduler.api.compat.orders import Order, as_base64, encoded, finish, pictures, place
from scheduler.api.context import ApiContext, Context
from scheduler.api.problems import responses_in
from storage.errors import BadSpecification
from storage.renders.views import JobView
from storage.spec.picture import Request

#: Longer than any client waits: OpenAI's own give up after ten minutes.
_SECONDS = 600.0
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class ImagesBody(BaseModel):
    """A request of OpenAI's Images API, with the extra fields that open servers agree on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "a red star", "n": 2, "size": "64x64", "response_format": "url"}]},
    )

    prompt: str
    model: str | None = Field(None, description="An alias of the registry; left out, or one of OpenAI's: the default.")
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: str = Field("auto", description="`WIDTHxHEIGHT`, or auto: the model's own.")
    response_format: Literal["url", "b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    stream: Literal[False] = Field(False, description="Not here: follow /v1/renders/ID/events.")
    partial_images: Literal[0] = 0
    # As others accept them.
    quality: str | None = Field(None, description="Without effect here.")
    style: str | None = Field(None, description="Without effect here.")
    moderation: str | None = Field(None, description="Without effect here.")
    background: str | None = Field(None, description="Without effect here.")
    user: str | None = Field(None, description="Without effect here.")
    negative_prompt: str | None = Field(None, description="What to steer away from.")
    num_inference_steps: int | None = Field(None, description="Denoising steps.")
    guidance_scale: float | None = Field(None, description="How closely to follow the prompt.")
    seed: int | None = Field(None, description="Of the first picture; the next ones count up from it.")


class ImageData(BaseModel):
    b64_json: str | None = Field(None, description="The picture, or null where addresses were asked for.")
    url: str | None = Field(None, description="Where the picture is, for an hour.")
    seed: int


class ErrorWords(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    error: ErrorWords


class ImagesAnswer(BaseModel):
    created: int
    data: list[ImageData]
    output_format: str
    size: str
    id: str = Field(description="The render.")


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses_in(OpenAIError))


@router.post("/images/generations")
def generate_images(
    context: Context,
    body: ImagesBody,
    caller: Submitter,
    http: HttpRequest,
    idempotency_key: Annotated[
        str | None,
        Header(max_length=255, description="Your name for this request: sent again, it is accepted once."),
    ] = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0, description="As OpenAI's clients count.")] = 0,
) -> ImagesAnswer:
    """Render, wait for the pictures, and answer with them: for clients of OpenAI's Images API.

    A client that has lost patience and asks again gets the pictures of its first request.
    """
    render_id = place(
        context,
        caller,
        Order(
            requests=[request_of(context, body)],
            n=body.n,
            seed=body.seed,
            body=body.model_dump(mode="json"),
            idempotency_key=idempotency_key,
            again=x_stainless_retry_count > 0,
        ),
    )
    jobs = pictures(context, finish(context, render_id, seconds=_SECONDS))
    return answer_of(context, body, jobs, base_url=str(http.base_url))


def answer_of(context: ApiContext, body: ImagesBody, jobs: Sequence[JobView], *, base_url: str) -> ImagesAnswer:
    """What is answered with these pictures, all done; `base_url`: how the caller reaches this API."""
    return ImagesAnswer(
        created=int(time.time()),
        data=[_data(context, body, job, base_url) for job in jobs],
        output_format=body.output_format,
        size=f"{jobs[0].spec.width}x{jobs[0].spec.height}",
        id=jobs[0].render_id,
    )


def request_of(context: ApiContext, body: ImagesBody) -> Request:
    """Raises BadSpecification."""
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "num_inference_steps": body.num_inference_steps,
        "guidance_scale": body.guidance_scale,
    }
    if body.model in context.registry.models:
        fields["model"] = body.model
    elif body.model is not None and not body.model.startswith(("dall-e", "gpt-image")):
        known = ", ".join(context.registry.models)
        raise BadSpecification(f"model: none is registered as {body.model!r}; known are {known}")
    if body.size != "auto":
        match = _SIZE.fullmatch(body.size)
        if match is None:
            raise BadSpecification(f"size: expected WIDTHxHEIGHT, such as 512x512, or auto (given: {body.size[:40]!r})")
        fields |= {"width": int(match[1]), "height": int(match[2])}
    return Request.parse({name: value for name, value in fields.items() if value is not None})


def _data(context: ApiContext, body: ImagesBody, job: JobView, base_url: str) -> ImageData:
    if body.response_format == "url":
        return ImageData(url=context.links.make(job, base_url), seed=job.spec.seed)
    data = encoded(context, job, form=body.output_format, quality=body.output_compression)
    return ImageData(b64_json=as_base64(data), seed=job.spec.seed)


def error(status: int, detail: str, fields: Sequence[str]) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": detail, "type": kind, "param": fields[0] if fields else None, "code": None}}
