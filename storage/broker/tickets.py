"""Publishing and counting tickets."""

import threading
from typing import Any

from storage.rules.states import Priority
from storage.settings import Settings, broker_address, without_secrets


class Tickets:
    """Publishes tickets through Celery and counts them in Redis; safe to share between threads."""

    def __init__(self, settings: Settings, app: Any = None) -> None:
        """Publish through the worker's own Celery application, or through one made for the first ticket.

        Raises BadSettings; connects on first use.
        """
        # Loaded here: commands that never ask Redis import this module too, and its library takes a fifth of a second.
        from storage.broker.redis_counts import RedisCounts

        url = broker_address(settings)
        self.settings = settings
        self._app = app
        self._making = threading.Lock()
        #: The most tickets of one model there may be.
        self.window = settings.ticket_window
        self.shown = without_secrets(url)
        self._redis = RedisCounts(url, shown=self.shown)

    def publish(self, model: str, priority: Priority, n: int = 1) -> None:
        """Publish `n` tickets. Raises BrokerProblem; some may then have been published, which is harmless."""
        # Loaded here: Celery takes a quarter of a second, and a command that publishes nothing never needs it.
        from storage.broker.celery_app import make_celery, send_tickets

        with self._making:
            if self._app is None:
                self._app = make_celery(self.settings)
        send_tickets(self._app, model, priority, n, shown=self.shown)

    def queued(self, model: str) -> dict[Priority, int]:
        """Count a model's tickets that wait in Redis, by priority. Raises BrokerProblem."""
        return self._redis.queued(model)

    def in_hand(self) -> int:
        """Count the tickets of all models that workers hold and have not acknowledged. Raises BrokerProblem."""
        return self._redis.in_hand()

    def check(self) -> None:
        """Raise BrokerProblem if Redis cannot be reached or refuses the password."""
        self._redis.check()

    def eviction_policy(self) -> str | None:
        """Return Redis's maxmemory-policy; None where the server hides it (managed services). Raises BrokerProblem."""
        return self._redis.eviction_policy()
