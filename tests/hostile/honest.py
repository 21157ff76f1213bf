"""Two honest users, who submit and ask all the while; and a load balancer that asks whether the API is alive."""

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import select

from scheduler.services import Services
from storage.database.tables import renders
from tests.servers import eventually

HONEST = ("ann", "ben")
_PAUSE = 0.3
_PATIENCE = 60.0
#: Each asks for its latest renders, as a page that shows them would.
_SHOWN = 3
_REPEATED_EACH = 10


@dataclass(kw_only=True)
class Felt:
    """What honest users noticed in a phase: seconds until they were answered, and what went wrong."""

    submit: list[float] = field(default_factory=list)
    status: list[float] = field(default_factory=list)
    healthz: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class HonestUser:
    """Somebody with a key. Renders are remembered, with how many pictures each was asked for."""

    address: str
    owner: str
    key: str
    accepted: dict[str, int] = field(default_factory=dict)
    #: Submissions without an answer: they may have been accepted.
    unanswered: int = 0
    doubled: list[str] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=_PATIENCE)

    def work(self, felt: Felt, stop: threading.Event) -> None:
        with self.client() as client:
            while not stop.wait(_PAUSE):
                self._submit(client, felt)
                for render_id in list(self.accepted)[-_SHOWN:]:
                    self._timed(felt.status, felt, lambda: client.get(f"/v1/renders/{render_id}"))  # noqa: B023

    def _submit(self, client: httpx.Client, felt: Felt) -> None:
        number = next(self._numbers)
        n, once = 1 + number % 3, {"Idempotency-Key": f"{self.owner} {number}"}

        def ask() -> httpx.Response:
            return client.post("/v1/renders", json={"prompt": "a red star", "model": "quick", "n": n}, headers=once)

        answer = self._timed(felt.submit, felt, ask)
        if answer is None:
            self.unanswered += 1
            return
        self.accepted[answer["id"]] = n
        if number % _REPEATED_EACH == 0:
            again = self._timed([], felt, ask)
            if again is not None and again["id"] != answer["id"]:
                self.doubled.append(f"render {again['id']} is {answer['id']} again")

    def _timed(self, times: list[float], felt: Felt, ask: Any) -> Any:
        started = time.perf_counter()
        try:
            answer = ask()
        except httpx.HTTPError as error:
            felt.errors.append(f"{self.owner}: {error!r}")
            return None
        times.append(time.perf_counter() - started)
        if answer.status_code >= 400:
            felt.errors.append(f"{self.owner}: {answer.request.url.path} → {answer.status_code} {answer.text[:200]}")
            return None
        return answer.json()

    # -- afterwards --------------------------------------------------------------------------------------------

    def lost(self, services: Services, *, patience: float) -> list[str]:
        """Renders that were accepted and are not done, whole and with their pictures; waits for what is under way."""

        def missing() -> list[str]:
            found = {row.id: (row.total, row.done) for row in self._rows(services)}
            return [
                f"render {render_id} of {self.owner}: asked for {n}, has (total, done) {found.get(render_id)}"
                for render_id, n in self.accepted.items()
                if found.get(render_id) != (n, n)
            ]

        try:
            eventually(lambda: not missing(), f"the renders of {self.owner} are done", timeout=patience)
        except AssertionError:
            return missing()
        return []

    def beside(self, services: Services) -> list[str]:
        """Renders of this owner that nobody asked for, beyond those whose submission was not answered."""
        unknown = [row.id for row in self._rows(services) if row.id not in self.accepted]
        return self.doubled + [
            f"render {render_id} of {self.owner}: not asked for" for render_id in unknown[self.unanswered :]
        ]

    def _rows(self, services: Services) -> Sequence[Any]:
        with services.database.read() as connection:
            return connection.execute(
                select(renders.c.id, renders.c.total, renders.c.done).where(renders.c.owner == self.owner)
            ).all()


def feel(users: Sequence[HonestUser], address: str, seconds: float, stop: threading.Event) -> Felt:
    """Let honest users work for so long, or until `stop`; what they felt."""
    felt, over = Felt(), threading.Event()
    threads = [threading.Thread(target=user.work, args=(felt, over)) for user in users]
    threads.append(threading.Thread(target=_ask_for_health, args=(address, felt, over)))
    with ExitStack() as ending:
        for thread in threads:
            thread.start()
            ending.callback(thread.join)
        ending.callback(over.set)
        stop.wait(seconds)
    return felt


def _ask_for_health(address: str, felt: Felt, over: threading.Event) -> None:
    with httpx.Client(base_url=address, timeout=_PATIENCE) as client:
        while not over.wait(_PAUSE):
            started = time.perf_counter()
            try:
                client.get("/healthz").raise_for_status()
            except httpx.HTTPError as error:
                felt.errors.append(f"/healthz: {error!r}")
            felt.healthz.append(time.perf_counter() - started)
