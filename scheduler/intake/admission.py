"""Admission: who submits, and what their key allows. The same for every way in."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from scheduler.intake.requests import MOST_PICTURES
from storage.access.keys import Key, Limits
from storage.access.quotas import UNUSED, Quotas, most_at_once, refuse_excess
from storage.access.uploads import Uploader
from storage.errors import BadSpecification, NotPermitted
from storage.jobs.values import Idempotency, Submission, Webhook
from storage.rules.render_times import RenderTimes
from storage.rules.states import Priority
from storage.spec.picture import Spec

NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Submitter:
    """Hold who submits: the owner of the pictures, and the limits of their key."""

    owner: str
    #: The API key; None: at the command line, and where no key is needed.
    key_id: str | None = None
    limits: Limits = NO_LIMITS
    #: Whether inputs may be files of this machine.
    local_files: bool = False
    #: Of the key: for renders that name no webhook of their own.
    webhook: Webhook | None = None
    #: How they reach the API; None: not over it.
    api_url: str | None = None

    @property
    def uploader(self) -> Uploader:
        return Uploader(owner=self.owner, key_id=self.key_id, limits=self.limits)


def webhook_of(key: Key) -> Webhook | None:
    """Return the webhook of a key; None if it has none."""
    return None if key.webhook_url is None else Webhook(url=key.webhook_url, events=key.webhook_events)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Hold how an order is to be submitted."""

    priority: Priority = Priority.NORMAL
    #: The caller's own name for the request, together with `request_hash`: sent again, it is accepted once.
    idempotency_key: str | None = None
    #: Equal for equal requests.
    request_hash: str | None = None
    #: The client retries a request that was not answered: it gets the render of the first one.
    repeated: bool = False
    webhook: Webhook | None = None
    #: Record events, so that the render can be followed.
    watched: bool = False
    #: Batch these pictures with one another only.
    together: bool = False
    #: Render them by so many threads, on a CPU.
    threads: int | None = None
    #: Make them by these calls of the model (`Submission.replay`).
    replay: str | None = None
    #: Keep the render out of the queue until it is released.
    held: bool = False
    #: When it may be rendered: held where that is not now.
    times: RenderTimes | None = None
    #: What its owner calls it, and says of it (`storage.rules.names`).
    name: str | None = None
    note: str | None = None

    def submission(self, submitter: Submitter) -> Submission:
        """Return the submission that storage accepts."""
        once = None
        if self.request_hash is not None:
            # The hash is stored even without an idempotency key: `repeated` requests are found by it.
            name = self.idempotency_key or f"door:{self.request_hash[:16]}:{secrets.token_hex(8)}"
            once = Idempotency(name=name, request_hash=self.request_hash)
        webhook = self.webhook or submitter.webhook
        return Submission(
            owner=submitter.owner,
            priority=self.priority,
            together=self.together,
            threads=self.threads,
            replay=self.replay,
            once=once,
            key_id=submitter.key_id,
            limits=submitter.limits,
            watched=self.watched,
            held=self.held,
            times=self.times,
            name=self.name,
            note=self.note,
            webhook=None if webhook is None else replace(webhook, api_url=submitter.api_url),
        )


def check_quota(quotas: Quotas, submitter: Submitter, pictures: int | Callable[[int], int]) -> None:
    """Check a key's quotas for more pictures before they are read: those that fit are checked when accepted.

    Args:
        pictures: how many, or what counts them, up to a number; it is not called where there is room for none.

    Raises QuotaExceeded; NotPermitted if waiting cannot help.
    """
    limits = submitter.limits
    if submitter.key_id is None or limits == Limits(work=limits.work):
        return
    used = quotas.used(submitter.key_id, limits)
    refuse_excess(limits, used, pictures if isinstance(pictures, int) else 1)
    if not isinstance(pictures, int) and (most := most_at_once(limits)) is not None:
        refuse_excess(limits, used, pictures(most + 1))


def check_number(pictures: int, limits: Limits) -> None:
    """Check whether one render may ever have so many pictures. Raises NotPermitted, BadSpecification."""
    if pictures > MOST_PICTURES:
        raise BadSpecification(f"more than {MOST_PICTURES:,} pictures in one render; split it")
    if (most := most_at_once(limits)) is not None and pictures > most:
        # As if nothing else were asked for.
        refuse_excess(limits, UNUSED, pictures)


def check_work(spec: Spec, limits: Limits) -> None:
    """Check the work of a single picture against a key's limit. Raises NotPermitted."""
    work = spec.width * spec.height * spec.num_inference_steps
    if limits.work is not None and work > limits.work:
        size = f"{spec.width} × {spec.height} pixels × {spec.num_inference_steps} steps"
        raise NotPermitted(f"{size} = {work}, more than this key's limit of {limits.work} for one picture")
