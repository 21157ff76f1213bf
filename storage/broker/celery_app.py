"""The Celery application. Every Celery setting is here."""

import ssl
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError

from storage.broker.problems import translated
from storage.broker.queues import KEY_PREFIX, TURN_TASK, queue_name
from storage.rules.states import Priority
from storage.settings import Settings, broker_address

_SETTINGS: dict[str, Any] = {
    # Only JSON on the wire: a message cannot carry code.
    "task_serializer": "json",
    "accept_content": ["json"],
    "event_serializer": "json",
    "result_serializer": "json",
    # Results are rows and objects; there is no result backend to fill up or to forge.
    "task_ignore_result": True,
    # A ticket is acknowledged when its turn is over. A child that dies puts it back; a poison job cannot make
    # that a loop, since each claim raises the job's attempt.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    # What failed is in the rows; delivering its ticket again would not mend it.
    "task_acks_on_failure_or_timeout": True,
    # One ticket in hand: what runs next is decided when the device is free.
    "worker_prefetch_multiplier": 1,
    # One process per device; the solo pool would lose the ticket in hand when it is asked to stop.
    "worker_concurrency": 1,
    "worker_pool": "prefork",
    # CUDA cannot be used in a forked child.
    "worker_pool_start_method": "spawn",
    # The child imports torch before it is up.
    "worker_proc_alive_timeout": 120,
    # Leases say what a worker owns, not its connection to Redis.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Nothing listens: workers' rows say what they do.
    "worker_send_task_events": False,
    # `storage.process.logs` sets up logging.
    "worker_hijack_root_logger": False,
    # For as long as it takes; Celery's default gives up after a hundred tries.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Publishing never blocks on an absent Redis; the sweep publishes what is missing.
    "task_publish_retry": False,
}
_TRANSPORT_OPTIONS: dict[str, Any] = {
    "global_keyprefix": KEY_PREFIX,
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
}


def make_celery(settings: Settings, *, transport_options: Mapping[str, Any] | None = None) -> Celery:
    """Make the Celery application. Raises BadSettings without a broker address. Nothing is contacted yet."""
    url = broker_address(settings)
    app = Celery("farm", broker=url, set_as_current=False)
    app.conf.update(
        **_SETTINGS,
        # Kombu's own default for rediss:// is not to verify the server.
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss:") else None,
        broker_transport_options={**_TRANSPORT_OPTIONS, **(transport_options or {})},
    )
    return app


def send_tickets(app: Celery, model: str, priority: Priority, n: int, *, shown: str) -> None:
    """Publish tickets over one connection. Raises BrokerProblem, naming the broker as it is `shown`."""
    with translated(shown, KombuError), app.producer_pool.acquire(block=True) as producer:
        for _ in range(n):
            app.send_task(TURN_TASK, args=[model], queue=queue_name(model), priority=int(priority), producer=producer)
