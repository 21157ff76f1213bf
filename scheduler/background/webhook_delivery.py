"""Delivering webhooks: signed as Standard Webhooks 1.0.0 says, tried again on its schedule, to public addresses."""

import base64
import hashlib
import hmac
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import httpcore
import httpx

from scheduler.background.due_looks import DueLooks
from scheduler.background.webhook_places import DeliveryPlaces, UnderWay, next_receivers
from scheduler.intake.addresses import Forbidden, as_sent
from storage.errors import ServiceProblem
from storage.events.receivers import due_receivers
from storage.events.webhooks import RETRY_SECONDS, Delivery, Webhooks
from storage.process.service_loop import run_until_stopped

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 20.0
#: A receiver that takes longer is tried after others, as one that fails is.
_SLOW_SECONDS = 5.0
#: What a receiver answers is not read further than that.
_ANSWER_BYTES = 4096
_JITTER = 0.1
#: What receivers do instead of answering.
_UNANSWERED = (
    *(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol),
    *(httpx.InvalidURL, OSError, ValueError),
)
#: A receiver that asks for more patience than that is not heard.
_LONGEST_SECONDS = 86400.0


def signed(delivery: Delivery, secret: str, *, now: float) -> Mapping[str, str]:
    """The headers of an attempt: its id, which is the same in every one, the time of this one, and the signature."""
    timestamp = str(int(now))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    said = f"{delivery.id}.{timestamp}.{delivery.body}".encode()
    signature = base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()
    return {"webhook-id": delivery.id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}


def _as_written(delivery: Delivery) -> str:
    return delivery.body


@dataclass(frozen=True, kw_only=True)
class WebhookDelivery:
    """Sends what is due; any number of processes may."""

    webhooks: Webhooks
    connections: httpcore.ConnectionPool
    every_seconds: float
    places: DeliveryPlaces = field(default_factory=DeliveryPlaces)
    #: Makes the body of an attempt.
    payload: Callable[[Delivery], str] = _as_written

    def run_once(self, stopping: threading.Event | None = None) -> int:
        """Try every message that is due, until none is; how many there were. Raises DatabaseProblem.

        Whoever is done takes the next one: a slow receiver occupies its own few places alone. Once asked to stop, only
        those under way are tried to their end.
        """
        stopping = stopping or threading.Event()
        tried = 0
        under_way: dict[Future[None], UnderWay] = {}
        looks = DueLooks(lambda: due_receivers(self.webhooks.database))
        with ThreadPoolExecutor(self.places.total, thread_name_prefix="webhook") as threads:
            while True:
                taken = [] if stopping.is_set() else self._take(looks, under_way.values())
                tried += len(taken)
                under_way |= {threads.submit(self._deliver, one): place for one, place in taken}
                if taken:
                    # Of each receiver one was taken: there may be places for more of them.
                    continue
                if not under_way:
                    return tried
                for done in wait(under_way, timeout=self.every_seconds, return_when=FIRST_COMPLETED).done:
                    del under_way[done]
                    done.result()

    def _take(self, looks: DueLooks, under_way: Collection[UnderWay]) -> list[tuple[Delivery, UnderWay]]:
        """Take the messages for which there are places now, at most one of each receiver."""
        if len(under_way) == self.places.total:
            return []
        due = looks.due(afresh=not under_way)
        while chosen := next_receivers(due, under_way, self.places):
            failing = {one.name: one.failing for one in chosen}
            taken = self.webhooks.take_next(failing)
            # Others have taken them, or the look was a moment ago.
            looks.forget(failing.keys() - {one.receiver for one in taken})
            if taken:
                return [(one, UnderWay(receiver=one.receiver, failing=failing[one.receiver])) for one in taken]
        return []

    def run(self, stopping: threading.Event) -> None:
        """Deliver until asked to stop; a database that is away is waited for."""

        def deliver_what_is_due() -> None:
            while self.run_once(stopping) and not stopping.is_set():
                continue

        run_until_stopped(
            deliver_what_is_due, doing="deliver webhooks", every_seconds=self.every_seconds, stopping=stopping
        )

    def _deliver(self, delivery: Delivery) -> None:
        began = time.monotonic()
        try:
            status, patience = self._send(replace(delivery, body=self.payload(delivery)))
        except Forbidden as error:
            # It was public when it was named.
            self.webhooks.failed(delivery, str(error), after=None)
            return
        except _UNANSWERED as error:
            self._failed(delivery, type(error).__name__, patience=None)
            return
        except ServiceProblem:
            raise
        except Exception as error:
            # Nobody foresaw it, so it belongs to this message alone: the others are not to pay for it.
            log.exception("webhook failed", extra={"webhook": delivery.id, "render": delivery.render_id})
            self._failed(delivery, type(error).__name__, patience=None)
            return
        if 200 <= status < 300:
            self.webhooks.delivered(delivery, str(status), slowly=time.monotonic() - began > _SLOW_SECONDS)
        elif status == 410:
            self.webhooks.gone(delivery)
        else:
            self._failed(delivery, str(status), patience=patience)

    def _send(self, delivery: Delivery) -> tuple[int, float | None]:
        """The status of the answer, and how long its receiver wants to be left alone."""
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("Content-Type", "application/json"),
            ("User-Agent", "diffusion-farm"),
            *signed(delivery, self.webhooks.secret(delivery.owner), now=time.time()).items(),
        ]
        limits = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT_SECONDS)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        with self.connections.stream(
            "POST",
            as_sent(delivery.url),
            headers=headers,
            content=delivery.body.encode(),
            extensions={"timeout": limits},
        ) as answer:
            read = 0
            for chunk in answer.iter_stream():
                read += len(chunk)
                # Its words do not matter, and may have no end.
                if read > _ANSWER_BYTES or time.monotonic() > deadline:
                    break
            return answer.status, _retry_after(answer.headers)

    def _failed(self, delivery: Delivery, answer: str, *, patience: float | None) -> None:
        """Tried again on the schedule, later if the receiver asks for that; given up after the last time."""
        if delivery.attempt > len(RETRY_SECONDS):
            log.warning(
                "webhook given up", extra={"webhook": delivery.id, "render": delivery.render_id, "answer": answer}
            )
            self.webhooks.failed(delivery, answer, after=None)
            return
        after = max(RETRY_SECONDS[delivery.attempt - 1], min(patience or 0.0, _LONGEST_SECONDS))
        # Receivers that fell over are not to be met by everybody at once.
        self.webhooks.failed(delivery, answer, after=after * random.uniform(1, 1 + _JITTER))  # noqa: S311


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    value = {name.lower(): value for name, value in headers}.get(b"retry-after", b"")
    return float(value) if value.isdigit() else None
