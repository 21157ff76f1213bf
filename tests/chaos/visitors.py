"""What people do over HTTP meanwhile: submit, wait, follow and leave half-way, with keys that come and go."""

import io
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
from PIL import Image

from storage.access.keys import Keys, Limits, Role
from storage.errors import ServiceProblem
from tests.chaos.ledger import OWNERS, Order
from tests.chaos.plan import LIMITED, MOST_QUEUED
from tests.chaos.stage import NO_TLS, Stage

_VISITORS, _LIMITED_VISITORS = 3, 3
_MOST_JOBS = 8
_PATIENCE, _IMPATIENCE = 30.0, 2.0
_LONGEST_WATCH = 5.0
_KEYS_EACH = 2


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A key of an owner."""

    key_id: str
    owner: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


@dataclass(kw_only=True)
class Visitors:
    """Keeps clients at the API until the calm."""

    stage: Stage
    seed: int
    #: What they met and should not have.
    violations: list[str] = field(default_factory=list)
    #: First seeds of orders whose end is to be told to the receiver of webhooks.
    hooked: list[int] = field(default_factory=list)
    _badges: list[Badge] = field(default_factory=list)
    #: Ids of keys whose revocation has at least begun.
    _revoked: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Visit until the calm; raises what a visitor ended with, which is the driver's fault."""
        for owner in OWNERS:
            self._make(owner)
        limited = self._make(LIMITED, limits=Limits(queued=MOST_QUEUED), keep=False)
        self.stage.limited_key.append(limited.key_id)
        tasks: list[Callable[[Random], None]] = [
            *[self._visit] * _VISITORS,
            *[lambda rng: self._press(rng, limited)] * _LIMITED_VISITORS,
            self._change_keys,
        ]
        with ThreadPoolExecutor(len(tasks), thread_name_prefix="visitor") as threads:
            running = [
                threads.submit(self._repeat, task, Random(f"visitor {self.seed} {number}"))
                for number, task in enumerate(tasks)
            ]
        for one in running:
            one.result()

    def _repeat(self, task: Callable[[Random], None], rng: Random) -> None:
        while not self.stage.calm.wait(rng.uniform(0.1, 1.0)):
            task(rng)

    # -- submitting --------------------------------------------------------------------------------------------

    def _visit(self, rng: Random) -> None:
        """Submit, perhaps wait for it, perhaps leave; then follow it, and look at a picture of it and of another's."""
        stage = self.stage
        if stage.observer.waiting() > 2 * stage.plan.backlog:
            return
        order = stage.ledger.order(rng, most=_MOST_JOBS)
        badge = rng.choice([one for one in list(self._badges) if one.owner == order.owner])
        headers = {"Idempotency-Key": str(order.first_seed)}
        if rng.random() < 0.4:
            headers["Prefer"] = "wait=5"
        body: dict[str, Any] = {}
        if rng.random() < 0.3:
            body["webhook"] = {"url": stage.receiver.url, "events": ["render.finished"]}
        patience = _IMPATIENCE if rng.random() < 0.3 else _PATIENCE
        render_id = self._submit(order, badge, headers, body, patience)
        if render_id is None:
            return
        if body:
            self.hooked.append(order.first_seed)
        if rng.random() < 0.5:
            self._follow(rng, render_id, badge)
        self._look(rng, render_id, order, badge)

    def _press(self, rng: Random, badge: Badge) -> None:
        """Submit as much as a key's limit allows, and more, from several sides at once."""
        order = self.stage.ledger.order(rng, most=MOST_QUEUED, owner=LIMITED)
        self._submit(order, badge, {"Idempotency-Key": str(order.first_seed)}, {}, _PATIENCE)

    def _submit(
        self, order: Order, badge: Badge, headers: Mapping[str, str], more: Mapping[str, Any], patience: float
    ) -> str | None:
        body = {
            "prompt": order.prompt,
            "model": order.model,
            "n": order.jobs,
            "seed": order.first_seed,
            "priority": order.priority.name.lower(),
            **more,
        }
        answer = self._ask("POST", "/v1/renders", badge, patience, json=body, headers=headers)
        if answer is None or answer.status_code not in (200, 201, 202):
            return None
        render_id = str(answer.json()["id"])
        self.stage.ledger.accepted[render_id] = order
        return render_id

    # -- following and looking ---------------------------------------------------------------------------------

    def _follow(self, rng: Random, render_id: str, badge: Badge) -> None:
        """Read a stream of events for a while: they are numbered from 1, each once."""
        until, numbers = time.monotonic() + rng.uniform(0.1, _LONGEST_WATCH), []
        try:
            with self._client(badge, _LONGEST_WATCH) as client:
                for number in _event_numbers(client, f"/v1/renders/{render_id}/events"):
                    numbers.append(number)
                    if time.monotonic() > until:
                        break
        except httpx.HTTPError:
            pass  # the API was killed, or nothing happened for long: what was read still counts
        if numbers != list(range(1, len(numbers) + 1)):
            self._note(f"the events of {render_id} came as {numbers[:50]}")

    def _look(self, rng: Random, render_id: str, order: Order, badge: Badge) -> None:
        """Fetch a picture and its thumbnail with one's own key, and try with another's."""
        job = f"/v1/jobs/{render_id}-{rng.randrange(order.jobs):06d}"
        path = f"{job}/image"
        answer = self._ask("GET", path, badge, _PATIENCE)
        if answer is not None and answer.status_code == 307:
            try:
                answer = httpx.get(answer.headers["location"], timeout=_PATIENCE, verify=NO_TLS)
            except httpx.HTTPError:
                return
        # A store that errs is not the API's fault; what it gives must be what was asked for.
        if answer is not None and answer.status_code == 200:
            self._check_picture(answer.content, order, path)
        others = [one for one in list(self._badges) if one.owner != order.owner]
        stranger = rng.choice(others)
        small = self._ask("GET", f"{job}/thumbnail", badge, _PATIENCE)
        if small is not None and small.status_code == 200 and not small.content.startswith(b"RIFF"):
            self._note(f"{job}/thumbnail: {small.content[:20]!r} is no WebP")
        for one in (path, f"{job}/thumbnail"):
            foreign = self._ask("GET", one, stranger, _PATIENCE)
            if foreign is not None and foreign.status_code < 400:
                self._note(f"{one} of {order.owner} was given to another owner")

    def _check_picture(self, data: bytes, order: Order, path: str) -> None:
        with Image.open(io.BytesIO(data)) as picture:
            spec = json.loads(picture.info["diffusion-farm"])["spec"]
        if spec["prompt"] != order.prompt or spec["seed"] - order.first_seed not in range(order.jobs):
            self._note(f"{path}: the picture is of {spec['prompt']!r}, seed {spec['seed']}, not of {order}")

    # -- keys --------------------------------------------------------------------------------------------------

    def _change_keys(self, rng: Random) -> None:
        """Make a key for somebody, and revoke their oldest; from then on it opens nothing."""
        owner = rng.choice(OWNERS)
        try:
            self._make(owner)
        except ServiceProblem:
            return
        theirs = [badge for badge in list(self._badges) if badge.owner == owner]
        if len(theirs) <= _KEYS_EACH:
            return
        oldest = theirs[0]
        with self._lock:
            self._badges.remove(oldest)
            self._revoked.add(oldest.key_id)
        while not self.stage.over.is_set():
            try:
                Keys(self.stage.services.database).revoke(oldest.key_id)
                break
            except ServiceProblem:
                self.stage.over.wait(0.2)
        self.stage.events.write("driver", "key revoked", key=oldest.key_id)
        answer = self._ask("GET", "/v1/renders", oldest, _PATIENCE)
        if answer is not None and answer.status_code < 400:
            self._note(f"the key {oldest.key_id} opened after it was revoked")

    def _make(self, owner: str, *, limits: Limits | None = None, keep: bool = True) -> Badge:
        keys = Keys(self.stage.services.database)
        key, secret = keys.create(name="visitor", owner=owner, role=Role.SUBMIT, limits=limits or Limits())
        badge = Badge(key_id=key.id, owner=owner, secret=secret)
        if keep:
            with self._lock:
                self._badges.append(badge)
        return badge

    # -- asking ------------------------------------------------------------------------------------------------

    def _client(self, badge: Badge, patience: float) -> httpx.Client:
        return httpx.Client(base_url=self.stage.api_address, headers=badge.headers, timeout=patience, verify=NO_TLS)

    def _ask(self, method: str, path: str, badge: Badge, patience: float, **more: Any) -> httpx.Response | None:
        """Ask; None without an answer. Notes answers that are neither right nor "come back later"."""
        try:
            with self._client(badge, patience) as client:
                answer = client.request(method, path, **more)
        except httpx.HTTPError as error:
            self.stage.events.write("visitor", "unanswered", path=path, error=type(error).__name__)
            return None
        status, later = answer.status_code, "retry-after" in answer.headers
        if status >= 500 and not (status == 503 and later):
            self._note(f"{method} {path} was answered with {status}: {answer.text[:200]}")
        if status == 401 and badge.key_id not in self._revoked:
            self._note(f"{method} {path}: the key {badge.key_id} was refused: {answer.text[:200]}")
        return answer

    def _note(self, words: str) -> None:
        self.stage.events.write("visitor", "violation", words=words)
        self.violations.append(words)


def _event_numbers(client: httpx.Client, path: str) -> Iterator[int]:
    with client.stream("GET", path) as answer:
        for line in answer.iter_lines() if answer.status_code == 200 else itertools.repeat("", 0):
            if line.startswith("id:"):
                yield int(line.removeprefix("id:"))
