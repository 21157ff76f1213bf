"""What a webhook message tells when it is sent: what happened, and where the picture is.

Addresses are made at each attempt, since they are valid for an hour.
"""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from scheduler.results.predictions import prediction_of
from scheduler.results.signed_urls import SignedUrls
from storage.access.signing import SigningSecrets
from storage.database.connection import Database
from storage.errors import NotFound
from storage.events.log import EventKind
from storage.events.webhooks import PREDICTION, Delivery
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views
from storage.rules.states import State
from storage.rules.times import Time


class JobEventData(BaseModel):
    """Tell what happened to a job: fields of its JSON form."""

    model_config = ConfigDict(extra="allow")

    seq: int = Field(description="The number of the event among those of its render.")
    id: str = Field(description="The job's id.")
    render: str = Field(description="The id of its render.")
    index: int = Field(description="Its position in the render, from 0.")
    custom_id: str | None = Field(None, description="The caller's own name for it.")
    labels: dict[str, Any] | None = Field(None, description="The caller's own data about it.")
    image_url: str | None = Field(
        None, description="An address of its picture, once it is done: it needs no key, for an hour from the attempt."
    )


class RenderEventData(BaseModel):
    """Tell what happened to a render: fields of its JSON form."""

    model_config = ConfigDict(extra="allow")

    seq: int = Field(description="The number of the event among those of the render.")
    id: str = Field(description="The render's id.")


class WebhookMessage(BaseModel):
    """Hold a message, as Standard Webhooks 1.0.0 has it."""

    type: EventKind = Field(description="What happened.")
    timestamp: Time = Field(description="When it happened (RFC 3339).")
    data: JobEventData | RenderEventData = Field(description="To what it happened.")


@dataclass(frozen=True, kw_only=True)
class WebhookPayloads:
    """Makes the bodies of messages."""

    views: Views
    urls: SignedUrls

    def body(self, delivery: Delivery) -> str:
        """Return the body of an attempt. What is gone meanwhile is told as it was written down."""
        try:
            if delivery.form == PREDICTION:
                return self._prediction(delivery)
            message = json.loads(delivery.body)
            if "index" not in message["data"]:
                return delivery.body
            job = self.views.job(message["data"]["id"])
        except NotFound:
            return delivery.body
        message["data"] |= {"custom_id": job.custom_id, "labels": job.labels}
        if delivery.kind == EventKind.JOB_DONE:
            message["data"]["image_url"] = self._address(job, delivery.api_url)
        return json.dumps(message)

    def _prediction(self, delivery: Delivery) -> str:
        render = self.views.render(delivery.render_id)
        api_url = delivery.api_url or ""
        made = prediction_of(self.views, render, api_url, output=lambda job: str(self._address(job, api_url)))
        return made.model_dump_json()

    def _address(self, job: JobView, api_url: str | None) -> str | None:
        """Return an address of a picture; without the API's own, only a path where its store has no addresses."""
        return self.urls.make(job, api_url or "") if job.state is State.DONE else None


def payloads_over(database: Database, objects: ObjectStore) -> WebhookPayloads:
    """Return the payloads over these services."""
    return WebhookPayloads(views=Views(database), urls=SignedUrls(SigningSecrets(database), objects))
