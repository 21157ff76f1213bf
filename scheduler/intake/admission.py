"""Admission: who submits, and what their key allows. The same for every way in."""

import secrets
from dataclasses import dataclass

from storage.access.keys import Limits
from storage.access.quotas import Quotas, refuse_excess
from storage.errors import NotPermitted
from storage.jobs.values import Idempotency, Submission, Webhook
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
    #: Keep the render out of the queue until it is released.
    held: bool = False

    def submission(self, submitter: Submitter) -> Submission:
        """Return the submission that storage accepts."""
        once = None
        if self.request_hash is not None:
            # The hash is stored even without an idempotency key: `repeated` requests are found by it.
            name = self.idempotency_key or f"door:{self.request_hash[:16]}:{secrets.token_hex(8)}"
            once = Idempotency(name=name, request_hash=self.request_hash)
        return Submission(
            owner=submitter.owner,
            priority=self.priority,
            together=self.together,
            once=once,
            key_id=submitter.key_id,
            limits=submitter.limits,
            watched=self.watched,
            held=self.held,
            webhook=self.webhook,
        )


def limits_count_pictures(limits: Limits) -> bool:
    """Return whether these limits depend on the number of pictures."""
    return limits.queued is not None or limits.per_day is not None


def check_quota(quotas: Quotas, submitter: Submitter, pictures: int) -> None:
    """Check a key's quotas for so many more pictures before they are read: those that fit are checked when accepted.

    Raises QuotaExceeded; NotPermitted if waiting cannot help.
    """
    limits = submitter.limits
    if submitter.key_id is not None and (limits_count_pictures(limits) or limits.per_minute is not None):
        refuse_excess(limits, quotas.used(submitter.key_id, limits), pictures)


def check_work(spec: Spec, limits: Limits) -> None:
    """Check the work of a single picture against a key's limit. Raises NotPermitted."""
    work = spec.width * spec.height * spec.num_inference_steps
    if limits.work is not None and work > limits.work:
        size = f"{spec.width} × {spec.height} pixels × {spec.num_inference_steps} steps"
        raise NotPermitted(f"{size} = {work}, more than this key's limit of {limits.work} for one picture")
