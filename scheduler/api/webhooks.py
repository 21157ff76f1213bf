"""Webhooks: their secret, those of keys, and what is sent, for the OpenAPI document."""

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header
from pydantic import BaseModel, Field

from scheduler.api.access import Caller, CanRead, CanSubmit
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.request_bodies import WebhookBody
from scheduler.intake.addresses import check_url
from scheduler.results.predictions import Prediction
from scheduler.results.webhook_payloads import WebhookMessage
from storage.access.keys import Keys
from storage.events.log import EventKind
from storage.events.webhooks import Webhooks


class SecretAnswer(BaseModel):
    """Hold what webhooks are signed with."""

    key: str = Field(description="whsec_ and base64, as the Standard Webhooks libraries expect it.")


class KeyWebhookAnswer(BaseModel):
    """Say where events of a key's renders are sent."""

    url: str | None = Field(description="Null: nowhere.")
    events: list[EventKind] = Field(description="Which events are sent.")


router = APIRouter(prefix="/v1", tags=["webhooks"], responses=RESPONSES, route_class=JsonRoute)


@router.get("/webhooks/secret")
def get_webhook_secret(context: Context, caller: CanSubmit) -> SecretAnswer:
    """Return the secret that your webhooks are signed with."""
    return SecretAnswer(key=Webhooks(context.services.database).secret(caller.owner))


@router.get("/webhooks/default/secret", tags=["Replicate"])
def get_default_webhook_secret(context: Context, caller: CanSubmit) -> SecretAnswer:
    """Return the same secret, where Replicate's clients look for it."""
    return get_webhook_secret(context, caller)


@router.get("/webhooks/key")
def get_webhook_of_key(context: Context, caller: CanRead) -> KeyWebhookAnswer:
    """Return where events of this key's renders are sent that name no webhook of their own."""
    key = Keys(context.services.database).usable(_key_id(caller))
    events = [] if key is None else [EventKind(one) for one in key.webhook_events]
    return KeyWebhookAnswer(url=None if key is None else key.webhook_url, events=events)


@router.put("/webhooks/key")
def set_webhook_of_key(context: Context, body: WebhookBody, caller: CanSubmit) -> KeyWebhookAnswer:
    """Send events of this key's later renders there, and of its schedules' renders, unless they name a webhook.

    Idempotent.
    """
    check_url(body.url, allow_private=context.services.settings.webhook_private)
    Keys(context.services.database).set_webhook(_key_id(caller), body.url, body.events)
    return KeyWebhookAnswer(url=body.url, events=body.events)


@router.delete("/webhooks/key", status_code=204)
def remove_webhook_of_key(context: Context, caller: CanSubmit) -> None:
    """Send no more events of this key's later renders. Idempotent."""
    Keys(context.services.database).set_webhook(_key_id(caller), None)


def _key_id(caller: Caller) -> str:
    """Return the caller's key. Raises Refused (409) if no key was needed."""
    if caller.key_id is None:
        raise Refused(409, "no API key was sent, and a webhook is a key's; `farm keys create` makes one")
    return caller.key_id


_WORDS = {
    EventKind.JOB_STARTED: "A picture is being rendered.",
    EventKind.JOB_DONE: "A picture is done; `image_url` leads to it.",
    EventKind.JOB_FAILED: "A picture has failed for good.",
    EventKind.JOB_QUEUED: "A picture is back in the queue: its worker stopped, or it may go well next time.",
    EventKind.JOB_CANCELLED: "A picture was cancelled by itself.",
    EventKind.RENDER_CANCELLED: "What was left of a render was cancelled.",
    EventKind.RENDER_HELD: "A render was taken out of the queue.",
    EventKind.RENDER_RELEASED: "A render was put back into the queue.",
    EventKind.RENDER_RETRIED: "The failed pictures of a render are in the queue again.",
    EventKind.RENDER_FINISHED: "Every picture of a render is done, failed or cancelled.",
}
_SIGNED = (
    "\n\nAn answer of 2xx takes it; after anything else, and none within 20 seconds, it is tried again: ten times in "
    "three days. 410 ends the messages to this address."
)
#: Of every receiver's address.
_RECEIVER: dict[str, Any] = {
    "tags": ["webhooks"],
    "status_code": 204,
    "responses": {204: {"description": "Taken."}, "default": {"description": "Not taken: it comes again."}},
}
WebhookId = Annotated[str, Header(description="The same in every attempt: what came before is not to be done again.")]
WebhookTimestamp = Annotated[int, Header(description="When this attempt was made, seconds since 1970.")]
WebhookSignature = Annotated[
    str,
    Header(description="`v1,` and HMAC-SHA256 of `ID.TIMESTAMP.BODY`, base64; `GET /v1/webhooks/secret` has the key."),
]


def document_webhooks(app: FastAPI) -> None:
    """Describe the messages that are sent (`webhooks` of OpenAPI 3.1)."""

    def told(
        body: WebhookMessage,
        webhook_id: WebhookId,
        webhook_timestamp: WebhookTimestamp,
        webhook_signature: WebhookSignature,
    ) -> None:
        """Stand for a receiver's own address, which is not here."""

    def told_of_prediction(
        body: Prediction,
        webhook_id: WebhookId,
        webhook_timestamp: WebhookTimestamp,
        webhook_signature: WebhookSignature,
    ) -> None:
        """Stand for a receiver's own address, which is not here."""

    for kind, words in _WORDS.items():
        name = f"told_{kind.name.lower()}"
        app.webhooks.post(kind.value, operation_id=name, description=words + _SIGNED, **_RECEIVER)(told)
    words = "A prediction has started, has another picture, or is over; sent where it names a `webhook`." + _SIGNED
    app.webhooks.post("prediction", operation_id="told_prediction", description=words, **_RECEIVER)(told_of_prediction)
