"""Counting tickets, and looking at the server that holds them.

Every direct call of Redis is here or, of previews, in `storage.broker.previews`.
"""

import redis

from storage.broker.problems import translated
from storage.broker.queues import UNACKED_KEY, list_key
from storage.errors import BadSettings
from storage.rules.states import Priority


class RedisCounts:
    """A connection to Redis, made on first use; safe to share between threads."""

    def __init__(self, url: str, *, shown: str) -> None:
        """Raise BadSettings if the URL cannot be understood; messages name the broker as it is `shown`."""
        self._shown = shown
        self._redis = connection(url, shown=shown)

    def queued(self, model: str) -> dict[Priority, int]:
        with translated(self._shown), self._redis.pipeline(transaction=False) as pipeline:
            for priority in Priority:
                pipeline.llen(list_key(model, priority))
            return dict(zip(Priority, pipeline.execute(), strict=True))

    def in_hand(self) -> int:
        with translated(self._shown):
            return int(self._redis.hlen(UNACKED_KEY))

    def check(self) -> None:
        with translated(self._shown):
            self._redis.ping()

    def eviction_policy(self) -> str | None:
        with translated(self._shown):
            try:
                policy = self._redis.config_get("maxmemory-policy")["maxmemory-policy"]
            except redis.ResponseError:
                return None
        return str(policy)


def connection(url: str, *, shown: str) -> redis.Redis:
    """Return a connection to Redis, made on first use. Raises BadSettings if the URL cannot be understood."""
    try:
        return redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=3)
    except ValueError:  # whose words may quote a part of the password
        raise BadSettings(
            f"FARM_BROKER_URL={shown}: not a Redis address; expected redis://:password@host:6379/0, "
            "or rediss://… with TLS, special characters of the password percent-encoded"
        ) from None
