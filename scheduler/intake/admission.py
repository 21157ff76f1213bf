"""Who submits, and what their key lets them: one place for every way in."""

import secrets
from dataclasses import dataclass

from storage.access.keys import Limits
from storage.access.quotas import Quotas, exceeded_limit
from storage.errors import NotPermitted, QuotaExceeded
from storage.jobs.values import Idempotency, Submission, Webhook
from storage.rules.states import Priority
from storage.spec.picture import Spec

NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Submitter:
    """Whoever asks for pictures: whose they will be, and what may be asked."""

    owner: str
    #: The API key that was shown; None: whoever asks sits at the farm's machine, or needs no key.
    key_id: str | None = None
    limits: Limits = NO_LIMITS
    #: Whether inputs may be named as files of this machine.
    local_files: bool = False


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How an order is to be submitted."""

    priority: Priority = Priority.NORMAL
    #: The caller's own name for the request, only beside `request_hash`: sent again, it is accepted once.
    idempotency_key: str | None = None
    #: Equal for requests that ask for the same.
    request_hash: str | None = None
    #: The client has sent this request before and got no answer: it gets the render of the first one.
    repeated: bool = False
    webhook: Webhook | None = None
    #: Write down what happens to the render, for those who follow it.
    watched: bool = False
    #: Batch these pictures with one another only.
    together: bool = False
    #: Keep the render out of the queue until it is released.
    held: bool = False

    def submission(self, submitter: Submitter) -> Submission:
        """Return what storage is told of the render."""
        once = None
        if self.request_hash is not None:
            # Without a name of the caller's the hash is stored all the same: `repeated` requests are found by it.
            name = self.idempotency_key or f"door:{self.request_hash[:16]}:{secrets.token_hex(8)}"
            once = Idempotency(name=name, request_hash=self.request_hash)
        return Submission(
            owner=submitter.owner,
            priority=self.priority,
            together=self.together,
            once=once,
            key_id=submitter.key_id,
            watched=self.watched,
            held=self.held,
            webhook=self.webhook,
        )


def limits_count_pictures(limits: Limits) -> bool:
    """Return whether it matters to these limits how many pictures are asked for."""
    return limits.queued is not None or limits.per_day is not None


def check_quota(quotas: Quotas, submitter: Submitter, pictures: int) -> None:
    """Check that a key's limits leave room for so many more pictures. Raises QuotaExceeded."""
    limits = submitter.limits
    if submitter.key_id is None or not (limits_count_pictures(limits) or limits.per_minute is not None):
        return
    if over := exceeded_limit(limits, quotas.used(submitter.key_id), pictures):
        raise QuotaExceeded(over.words, retry_seconds=over.retry_seconds)


def check_work(spec: Spec, limits: Limits) -> None:
    """Check that a single picture is no more work than a key may ask for. Raises NotPermitted."""
    work = spec.width * spec.height * spec.num_inference_steps
    if limits.work is not None and work > limits.work:
        size = f"{spec.width} × {spec.height} pixels × {spec.num_inference_steps} steps"
        raise NotPermitted(f"{size} = {work}, more than this key's limit of {limits.work} for one picture")
