"""Messages: the Celery application, its queues (one a model) and its tickets. Every Celery setting is here.

A *ticket* says "there is work for this model" and nothing else; the rows say which. So losing, doubling or delaying
tickets loses nothing, and there are never more than a window of them whatever the backlog.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError
from kombu.transport.redis import Channel

from storage.errors import BadSettings, BrokerProblem
from storage.rules.states import Priority
from storage.settings import Settings, without_secrets

#: The one task there is; its argument is a model's alias.
TURN_TASK = "farm.turn"
_KEY_PREFIX = "farm:"


def queue_name(model: str) -> str:
    return f"model.{model}"


def make_celery(settings: Settings, *, transport_options: Mapping[str, Any] | None = None) -> Celery:
    """The Celery application. Raises BadSettings without a broker address. Nothing is contacted yet."""
    if settings.broker_url is None:
        raise BadSettings("FARM_BROKER_URL is not set; `farm up` runs a broker on this machine")
    app = Celery("farm", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        # Only JSON on the wire: a message cannot carry code.
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        result_serializer="json",
        # Results are rows and objects; there is no result backend to fill up or to forge.
        task_ignore_result=True,
        # A ticket is acknowledged when its turn is over. A child that dies puts it back; a poison job cannot make
        # that a loop, since each claim raises the job's attempt.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # What failed is in the rows; delivering its ticket again would not mend it.
        task_acks_on_failure_or_timeout=True,
        # One ticket in hand: what runs next is decided when the device is free.
        worker_prefetch_multiplier=1,
        # One process a device; a pool of threads (solo) would lose the ticket in hand when it is told to quit.
        worker_concurrency=1,
        worker_pool="prefork",
        # CUDA cannot be used in a forked child.
        worker_pool_start_method="spawn",
        # The child imports torch before it is up.
        worker_proc_alive_timeout=120,
        # What a worker owns is said by its leases, not by its connection to Redis.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Nobody listens: what workers do is in their rows.
        worker_send_task_events=False,
        # `storage.process.logs` sets up logging.
        worker_hijack_root_logger=False,
        # Kombu's own default for rediss:// is not to verify the server.
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if settings.broker_url.startswith("rediss:") else None,
        # For as long as it takes; Celery's default gives up after a hundred tries.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Publishing never blocks on an absent Redis; the sweep publishes what is missing.
        task_publish_retry=False,
        broker_transport_options={
            "global_keyprefix": _KEY_PREFIX,
            "priority_steps": [int(priority) for priority in Priority],
            # A ticket whose worker died is delivered again after this; jobs do not wait for it (the sweep).
            "visibility_timeout": 900,
            # Look for those every 5 s; by default it is every 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Without these a frozen Redis hangs its clients for ever, and a half-open connection its worker.
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # Else publishing waits 6 s for an absent Redis, in Kombu's own retries.
            "max_retries": 0,
            **(transport_options or {}),
        },
    )
    return app


class Tickets:
    """Publishing and counting tickets."""

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        """Over the worker's own application, or one made here. Raises BadSettings; connects on first use."""
        self._app = app or make_celery(settings)
        #: The most tickets of one model there may be.
        self.window = settings.ticket_window
        url = self._app.conf.broker_url
        self.shown = without_secrets(url)
        try:
            self._redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=3)
        except ValueError:  # whose words may quote a part of the password
            raise BadSettings(
                f"FARM_BROKER_URL={self.shown}: no address of Redis; expected redis://:password@host:6379/0, "
                "or rediss://… with TLS, special characters of the password percent-encoded"
            ) from None

    def publish(self, model: str, priority: Priority, n: int = 1) -> None:
        """Raises BrokerProblem; some of the tickets may then have been published, which is harmless."""
        with self._translated(), self._app.producer_pool.acquire(block=True) as producer:
            for _ in range(n):
                self._app.send_task(
                    TURN_TASK,
                    args=[model],
                    queue=queue_name(model),
                    priority=int(priority),
                    producer=producer,
                )

    def queued(self, model: str) -> dict[Priority, int]:
        """Tickets of a model waiting in Redis, by priority. Raises BrokerProblem."""
        with self._translated(), self._redis.pipeline(transaction=False) as pipeline:
            for priority in Priority:
                pipeline.llen(_list_key(model, priority))
            return dict(zip(Priority, pipeline.execute(), strict=True))

    def in_hand(self) -> int:
        """Tickets of all models that workers hold and have not acknowledged. Raises BrokerProblem."""
        with self._translated():
            return int(self._redis.hlen(_KEY_PREFIX + Channel.unacked_key))

    def check(self) -> None:
        """Raises BrokerProblem if Redis cannot be reached or refuses the password."""
        with self._translated():
            self._redis.ping()

    def eviction_policy(self) -> str | None:
        """Redis's maxmemory-policy; None where the server does not tell (managed services). Raises BrokerProblem."""
        with self._translated():
            try:
                policy = self._redis.config_get("maxmemory-policy")["maxmemory-policy"]
            except redis.ResponseError:
                return None
        return str(policy)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, KombuError, OSError) as error:
            # Kombu wraps what Redis said.
            if isinstance(error, redis.AuthenticationError) or isinstance(error.__cause__, redis.AuthenticationError):
                raise BrokerProblem(
                    f"broker {self.shown}: the password is refused ({error}); correct FARM_BROKER_URL"
                ) from error
            raise BrokerProblem(f"broker {self.shown}: {str(error).rstrip('.')}; check FARM_BROKER_URL") from error


def _list_key(model: str, priority: Priority) -> str:
    """The Redis list in which Kombu keeps a queue's messages of one priority (`Channel._q_for_pri`)."""
    suffix = f"{Channel.sep}{int(priority)}" if priority else ""
    return f"{_KEY_PREFIX}{queue_name(model)}{suffix}"
