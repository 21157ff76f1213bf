"""Tell the holder of a limited key, in headers, what its limits are and what is left of them.

As the IETF's draft has them (draft-ietf-httpapi-ratelimit-headers-10), and requests a minute as OpenAI has them.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.access import Caller, caller_of
from scheduler.api.waiting.single_flight import SingleFlight
from storage.access.keys import Limits
from storage.access.quotas import Quotas, QuotaUsage, exceeded_limit
from storage.errors import ServiceProblem

log = logging.getLogger(__name__)

_DAY_SECONDS = 86400
_MINUTE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class LimitLeft:
    """A limit of a key and what is left of it."""

    name: str
    most: int
    left: int
    #: Within so many seconds; None: at once.
    window: int | None
    #: What is counted, where it is not requests.
    unit: str | None = None
    #: When to come back if nothing is left: as `Retry-After`.
    retry_seconds: int | None = None

    @property
    def policy(self) -> str:
        """The limit, as a member of `RateLimit-Policy`."""
        window = "" if self.window is None else f";w={self.window}"
        unit = "" if self.unit is None else f';qu="{self.unit}"'
        return f'"{self.name}";q={self.most}{unit}{window}'

    @property
    def state(self) -> str:
        """What is left, as a member of `RateLimit`."""
        retry = "" if self.retry_seconds is None else f";t={self.retry_seconds}"
        return f'"{self.name}";r={self.left}{retry}'


def limits_left(limits: Limits, used: QuotaUsage) -> Iterator[LimitLeft]:
    """Yield the limits of a key, and what is left of each."""
    minute, queued, day = limits.per_minute, limits.queued, limits.per_day
    if minute is not None:
        yield _left("requests-per-minute", minute, used.requests_last_minute, Limits(per_minute=minute), used, 60)
    if queued is not None:
        yield _left("unfinished-pictures", queued, used.unfinished, Limits(queued=queued), used, None)
    if day is not None:
        yield _left("pictures-per-day", day, used.accepted_last_day, Limits(per_day=day), used, _DAY_SECONDS)


def _left(name: str, most: int, taken: int, alone: Limits, used: QuotaUsage, window: int | None) -> LimitLeft:
    over = exceeded_limit(alone, used, 1)
    unit = None if name.startswith("requests") else "pictures"
    retry = None if over is None else over.retry_seconds
    return LimitLeft(name=name, most=most, left=max(most - taken, 0), window=window, unit=unit, retry_seconds=retry)


class RateLimits:
    """Put the headers on answers to POST: what they count is asked for so."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self._app = app
        self._quotas = quotas
        # When hundreds have waited in vain, they are all answered at once.
        self._used: SingleFlight[QuotaUsage] = SingleFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and (caller := caller_of(scope)) is not None:
                headers = MutableHeaders(scope=message)
                for name, value in (await self._headers(caller)).items():
                    headers[name] = value
            await send(message)

        asked = scope["type"] == "http" and scope["method"] == "POST"
        await self._app(scope, receive, with_limits if asked else send)

    async def _headers(self, caller: Caller) -> dict[str, str]:
        limits = caller.limits
        key_id = caller.key_id
        if key_id is None or (limits.per_minute, limits.queued, limits.per_day) == (None, None, None):
            return {}
        try:
            used = await self._used.get((key_id, limits), lambda: self._quotas.used(key_id, limits))
        except ServiceProblem as error:
            # The answer stands, whatever became of its request; it only does not tell what is left.
            log.warning("answered without rate limits", extra={"error": error})
            return {}
        told = list(limits_left(limits, used))
        headers = {
            "RateLimit-Policy": ", ".join(one.policy for one in told),
            "RateLimit": ", ".join(one.state for one in told),
        }
        for one in told:
            if one.window == _MINUTE_SECONDS:
                headers["X-RateLimit-Limit-Requests"] = str(one.most)
                headers["X-RateLimit-Remaining-Requests"] = str(one.left)
                headers["X-RateLimit-Reset-Requests"] = f"{_MINUTE_SECONDS if one.left < one.most else 0}s"
        return headers
