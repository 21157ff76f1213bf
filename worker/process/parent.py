"""The Celery worker of one device, which the supervisor starts: `python -m worker.process.parent`."""

import os
import threading
import warnings
from typing import Any

from celery.platforms import SecurityWarning
from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down

from storage.broker.celery_app import make_celery
from storage.broker.queues import queue_name
from storage.database.connection import Database
from storage.fleet.workers import Workers
from storage.process import lifeline
from storage.process.logs import configure_logging
from storage.settings import Settings, read_settings
from storage.spec.registry_watch import watch_registry
from worker.process import redis_qos
from worker.process.child_watch import ChildWatch
from worker.process.identity import RUN, Identity, this_run
from worker.process.tasks import STOP_SIGNAL


def main() -> None:
    settings = read_settings()
    me = Identity.of(settings)
    configure_logging(settings, me.name)
    lifeline.stop_with_parent()
    # Its child is of the same run, also where no supervisor has named one.
    os.environ.setdefault(RUN, this_run())
    # Celery warns of running as root because pickled messages can carry code; ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = make_celery(
        settings, transport_options={"queue_order_strategy": "worker.process.queue_order:LoadedModelFirst"}
    )
    app.conf.update(imports=("worker.process.tasks",))
    redis_qos.install()
    _watch_child(settings, me.name)
    _take_tickets_for_what_is_added(settings, me)
    celeryd_after_setup.connect(_tell_child_when_stopping, weak=False)
    queues = ",".join(map(queue_name, me.served))
    app.worker_main(
        [
            # Our own log lines say what Celery's banner and its pool's messages would.
            "--quiet",
            "worker",
            f"--hostname={me.name}",
            f"--queues={queues}",
            "--loglevel=warning",
            # Workers find each other through the database.
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def _watch_child(settings: Settings, name: str) -> None:
    """Watch the child once the pool has started it."""

    def start(sender: Any, **_: Any) -> None:
        ChildWatch(
            Workers(Database(settings.database, connections=0), run=this_run()),
            name=name,
            # Far longer than the child ever blocks its interpreter, and than its jobs' leases last.
            silent_seconds=max(60.0, 2 * settings.lease_seconds),
            children=lambda: sender.pool.info["processes"],
        ).start()

    worker_ready.connect(start, weak=False)


def _take_tickets_for_what_is_added(settings: Settings, me: Identity) -> None:
    """Take tickets for models that are added to the registry, too; those of one that is gone find no entry."""

    def start(sender: Any, **_: Any) -> None:
        def add(alias: str) -> None:
            # By its name, so that it is the very queue that tickets are published to.
            sender.app.amqp.queues[queue_name(alias)]
            sender.add_task_queue(queue_name(alias))

        def changed() -> None:
            for alias in me.served:
                # On Celery's own thread: its connections are not to be shared.
                sender.call_soon(add, alias)

        watch_registry(settings, me.registry, threading.Event(), check=me.check_served, changed=changed)

    worker_ready.connect(start, weak=False)


def _tell_child_when_stopping(instance: Any, **_: Any) -> None:
    """Tell the child when Celery stops: it waits for the running turn, which can last until the queue is empty."""

    def tell(**_: Any) -> None:
        for pid in instance.pool.info["processes"]:
            # One that has just died is not started again any more.
            if pid is not None:
                os.kill(pid, STOP_SIGNAL)

    worker_shutting_down.connect(tell, weak=False)


if __name__ == "__main__":
    main()
