"""OpenAI's Images API: `POST /v1/images/generations`, and errors in OpenAI's form."""

import re
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest

from scheduler.api.access import CanSubmit
from scheduler.api.compat.bodies import ClientBody
from scheduler.api.compat.openai_stream import MOST_PARTIAL, Partial, PictureForm, streamed
from scheduler.api.compat.pictures import Call, as_base64, encoded, rendered
from scheduler.api.compat.spelling import spelled
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import hash_of
from scheduler.api.parameters import IdempotencyKey
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import responses_in
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest, at
from scheduler.intake.submit import Accepted
from storage.errors import BadSpecification
from storage.renders.views import JobView
from storage.rules.states import Priority
from storage.spec.picture import Request

#: Longer than any client waits: OpenAI's own give up after ten minutes.
_SECONDS = 600.0
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
#: Names of OpenAI's own models stand for the default model.
_MODELS_OF_OPENAI = ("dall-e", "gpt-image", "chatgpt-image")
#: Field of a specification → its name in OpenAI's API.
FIELDS = {"width": "size", "height": "size"}
_IGNORED = {
    "quality": "use num_inference_steps",
    "style": "describe it in the prompt",
    "moderation": "not supported by the farm",
    "background": "pictures are always opaque",
    "user": "a render belongs to the owner of the key",
    "safety_identifier": "a render belongs to the owner of the key",
    "complexity": "use num_inference_steps",
}
#: Values that are what happens anyway.
_AS_IT_IS = {"quality": ("auto",), "moderation": ("auto",), "background": ("auto", "opaque")}


class ImagesBody(ClientBody):
    """A request of OpenAI's Images API, with the extra fields that open-source servers share."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "a red star", "n": 2, "size": "64x64", "response_format": "url"}]},
    )

    prompt: str = Field(description="What to draw.")
    model: str | None = Field(None, description="A registered model; left out, or one of OpenAI's: the default model.")
    n: Annotated[int, Field(ge=1, le=10)] = Field(1, description="How many pictures.")
    size: str = Field("auto", description="`WIDTHxHEIGHT`, or auto for the model's default.")
    response_format: Literal["url", "b64_json"] = Field(
        "b64_json", description="The pictures themselves, or URLs of them, valid for an hour."
    )
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="The format of the pictures.")
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(100, description="Quality of JPEG and WebP.")
    stream: bool = Field(False, description="Answer with server-sent events, the last of which has the picture.")
    partial_images: Annotated[int, Field(ge=0, le=MOST_PARTIAL)] = Field(
        0, description="With `stream`: how many previews to send before it; fewer if it is done sooner, or has none."
    )
    # OpenAI's clients send these; each that asks for something gets a remark.
    quality: str | None = Field(None, description="Ignored, with a remark: use `num_inference_steps`.")
    style: str | None = Field(None, description="Ignored, with a remark.")
    moderation: str | None = Field(None, description="Ignored, with a remark.")
    background: str | None = Field(None, description="Pictures are opaque; anything else is ignored, with a remark.")
    user: str | None = Field(None, description="Ignored, with a remark: a render belongs to the key's owner.")
    safety_identifier: str | None = Field(None, description="As `user`, which it replaces in newer clients.")
    complexity: str | None = Field(None, description="Ignored, with a remark: use `num_inference_steps`.")
    negative_prompt: str | None = Field(None, description="What not to draw.")
    num_inference_steps: int | None = Field(None, description="Denoising steps.")
    guidance_scale: float | None = Field(None, description="How closely to follow the prompt.")
    seed: int | None = Field(None, description="Of the first picture; the next ones count up from it.")


class ImageData(BaseModel):
    """Hold a picture, or its URL."""

    b64_json: str | None = Field(None, description="The picture, or null if URLs were requested.")
    url: str | None = Field(None, description="A URL of the picture, valid for an hour.")
    seed: int = Field(description="What it was made from.")


class ErrorWords(BaseModel):
    """Say what is wrong, as OpenAI does."""

    message: str = Field(description="What is wrong, and what to do, for people.")
    type: str = Field(description="OpenAI's own kinds, such as `invalid_request_error`; they follow the status.")
    param: str | None = Field(description="The field that is wrong, if any.")
    code: ProblemCode | None = Field(description="The kind of problem, for programs; `GET /problems` lists all.")


class OpenAIError(BaseModel):
    """Hold an error in OpenAI's form."""

    error: ErrorWords = Field(description="What is wrong.")


class ImagesAnswer(BaseModel):
    """Hold the pictures, as OpenAI does."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageData] = Field(description="The pictures, in their order.")
    output_format: str = Field(description="Their format.")
    size: str = Field(description="Their size, `WIDTHxHEIGHT`.")
    id: str = Field(description="The id of the render.")
    remarks: list[str] = Field(default_factory=list, description="Warnings, such as a field that is ignored.")


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses_in(OpenAIError), route_class=JsonRoute)


@router.post(
    "/images/generations",
    response_model=ImagesAnswer,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The pictures; with `stream`, events."}},
)
async def generate_images(
    context: Context,
    body: ImagesBody,
    caller: CanSubmit,
    http: HttpRequest,
    idempotency_key: IdempotencyKey = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0, description="Set by OpenAI's clients when they retry.")] = 0,
) -> Response:
    """Render, wait, and return the pictures: for clients of OpenAI's Images API.

    A client that has lost patience and asks again gets the pictures of its first request. With `stream` the answer is
    events: `image_generation.partial_image`, a preview, up to `partial_images` times for each picture, and
    `image_generation.completed` with each picture; the field `index` says which of `n` it is.
    """

    def asked() -> tuple[Order, Terms]:
        order = Order(requests=(source_of(context, body),), remarks=tuple(remarks_on(context, body)))
        terms = Terms(
            priority=Priority.INTERACTIVE,
            idempotency_key=idempotency_key,
            request_hash=hash_of(body.model_dump(mode="json")),
            repeated=x_stainless_retry_count > 0,
            watched=True,
        )
        return order, terms

    def answer(accepted: Accepted, jobs: Sequence[JobView]) -> ImagesAnswer:
        made = answer_of(context, body, jobs, base_url=str(http.base_url))
        return made.model_copy(update={"remarks": sorted(accepted.remarks)})

    call = Call(context=context, caller=caller, request=http, seconds=_SECONDS)
    with spelled(FIELDS):
        if not body.stream:
            return await rendered(call, asked, answer)
        form = PictureForm(form=body.output_format, quality=body.output_compression)
        partial = Partial(wanted=body.partial_images, pictures=body.n)
        return await streamed(call, asked, partial=partial, form=form, error=error)


def answer_of(context: ApiContext, body: ImagesBody, jobs: Sequence[JobView], *, base_url: str) -> ImagesAnswer:
    """Return the answer for these jobs, all done; `base_url`: how the caller reaches this API."""
    return ImagesAnswer(
        created=int(time.time()),
        data=[_data(context, body, job, base_url) for job in jobs],
        output_format=body.output_format,
        size=f"{jobs[0].spec.width}x{jobs[0].spec.height}",
        id=jobs[0].render_id,
    )


def source_of(
    context: ApiContext, body: ImagesBody, *, where: str = "", custom_id: str | None = None
) -> SourcedRequest:
    """Return the request in a body; `where` says where it was read. Raises BadSpecification."""
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "num_inference_steps": body.num_inference_steps,
        "guidance_scale": body.guidance_scale,
        "seed": body.seed,
        "custom_id": custom_id,
        "model": None if _is_of_openai(context, body.model) else body.model,
    }
    try:
        _check_stream(body, in_batch=bool(where))
        if body.size != "auto":
            if (match := _SIZE.fullmatch(body.size)) is None:
                raise BadSpecification(
                    f"size: must be WIDTHxHEIGHT, such as 512x512, or auto (given: {body.size[:40]!r})"
                )
            fields |= {"width": int(match[1]), "height": int(match[2])}
        with spelled(FIELDS):
            request = Request.parse({name: value for name, value in fields.items() if value is not None})
    except BadSpecification as error:
        raise at(where, error) from None
    return SourcedRequest(where, request, copies=body.n)


def _check_stream(body: ImagesBody, *, in_batch: bool) -> None:
    """Raise BadSpecification for what cannot be streamed, and for previews where nothing is."""
    if body.stream and in_batch:
        raise BadSpecification("stream: a batch's answers are a file; leave it out")
    if body.stream and body.response_format == "url":
        raise BadSpecification(
            'response_format: events have the pictures themselves; with stream, it must be "b64_json"'
        )
    if body.partial_images and not body.stream:
        raise BadSpecification("partial_images: previews come as events; set stream, or leave it out")


def remarks_on(context: ApiContext, body: ImagesBody) -> Iterator[str]:
    """Yield a remark on each field that is ignored."""
    for name, why in _IGNORED.items():
        value = getattr(body, name)
        if value is not None and value not in _AS_IT_IS.get(name, ()):
            yield f"{name}: ignored; {why}"
    if _is_of_openai(context, body.model):
        yield f"model: {body.model!r} is not registered; rendered with {context.registry.default}"
    if body.output_format == "png" and "output_compression" in body.model_fields_set:
        yield "output_compression: ignored; a PNG is lossless"


def _is_of_openai(context: ApiContext, model: str | None) -> bool:
    return model is not None and model not in context.registry.models and model.startswith(_MODELS_OF_OPENAI)


def _data(context: ApiContext, body: ImagesBody, job: JobView, base_url: str) -> ImageData:
    asked: dict[str, Any] = {"form": body.output_format, "quality": body.output_compression}
    if body.response_format == "url":
        return ImageData(url=context.links.make(job, base_url, **asked), seed=job.spec.seed)
    data = encoded(context, job, **asked)
    return ImageData(b64_json=as_base64(data), seed=job.spec.seed)


def error(status: int, code: ProblemCode, detail: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": detail, "type": kind, "param": fields[0] if fields else None, "code": code}}
