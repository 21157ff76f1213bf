"""What strangers do, one function a kind; a process of its own, so that it slows down nobody but through the farm."""

import base64
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.hostile.bombs import Bomb, bombs
from tests.hostile.documented import Documented, Generated, Known
from tests.hostile.tally import Answers, Tally, Told

#: After so long a stranger closes a connection on which an answer is still to come.
_PATIENCE = 4.0
_MOST_READ = 2**20
_DRIP_SECONDS = 0.5
_SLOW_AT_ONCE = 20
_VANISHING_AT_ONCE = 10
#: More than a key may have of each, waiting callers and streams.
_CROWD_OF_EACH = 320
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Badges:
    """Keys and addresses that strangers have come by."""

    #: A valid one, of an owner with limits.
    key: str
    revoked: str
    #: Addresses of one picture: signed, with a signature that was changed, and of another picture with this signature.
    signed: str
    forged_addresses: Sequence[str]
    #: By the name of the parameter that takes them: ids of what belongs to honest users.
    of_others: Mapping[str, Sequence[str]]

    @property
    def forged(self) -> Sequence[str]:
        """Keys that nobody was given."""
        return (
            "",
            "farm_",
            "a" * 5000,
            self.key[:-1] + ("A" if self.key[-1] != "A" else "B"),
            self.key.upper(),
            "farm_000000000000_" + "A" * 43,
            self.revoked.rsplit("_", 1)[0] + "_" + self.key[-43:],
        )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard strangers push: the pause between two requests of a kind, in seconds."""

    generated: float = 0.05
    bombs: float = 0.5
    keys: float = 0.05
    addresses: float = 0.1
    #: Between one crowd that vanishes, or is slow, and the next.
    crowds: float = 1.0
    #: Between two of a crowd that stays.
    arrivals: float = 0.05


@dataclass(kw_only=True)
class Strangers:
    """All of them, in threads."""

    address: str
    badges: Badges
    pace: Pace
    seed: int
    stop: Event
    tally: Tally = field(default_factory=Tally)

    def run(self) -> None:
        """Send until told to stop; raises what a kind ended with."""
        kinds: Sequence[tuple[Callable[[Random], None], float]] = (
            (self.generated, self.pace.generated),
            (self.generated, self.pace.generated),
            (self.bomb, self.pace.bombs),
            (self.with_keys, self.pace.keys),
            (self.signed_addresses, self.pace.addresses),
            (self.slow, self.pace.crowds),
            (self.vanishing, self.pace.crowds),
            (self.crowding, self.pace.crowds),
        )
        with ThreadPoolExecutor(len(kinds), thread_name_prefix="stranger") as threads:
            running = [
                threads.submit(self._repeat, kind, pause, Random(f"{self.seed} {number}"))
                for number, (kind, pause) in enumerate(kinds)
            ]
        for one in running:
            one.result()

    def _repeat(self, kind: Callable[[Random], None], pause: float, rng: Random) -> None:
        while not self.stop.is_set():
            kind(rng)
            self.stop.wait(pause)

    # -- requests of every form --------------------------------------------------------------------------------

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.address}/openapi.json", timeout=60).json()
        return found

    @cached_property
    def _documented(self) -> Documented:
        return Documented(self._document, Random(self.seed))

    @cached_property
    def _known(self) -> Known:
        return Known(others=self.badges.of_others)

    def generated(self, rng: Random) -> None:
        """Send what the OpenAPI document allows, and what it nearly allows, to each of its paths."""
        request = self._documented.draw(self._known)
        told = self._asked(
            "generated", request.method, request.path, request.content, {**self._key(rng), **request.headers}
        )
        if told is None:
            return
        # Another's may be cancelled, held, seen or deleted by nobody else.
        self.tally.answered(
            "generated",
            f"{request.method} {request.path} {request.content[:300]!r}",
            told,
            may_pass=not request.is_for_others or request.template.startswith("/v1/pictures"),
        )
        self._learn(request, told)

    def _learn(self, request: Generated, told: Told) -> None:
        """Remember what was made, to come back to it."""
        if request.method != "POST" or told.status >= 300:
            return
        with suppress(ValueError, KeyError, TypeError):
            made = json.loads(told.words)
            if request.template == "/v1/files":
                self._known.learn("file_id", made["id"])
            elif request.template == "/v1/batches":
                self._known.learn("batch_id", made["id"])
            elif request.template == "/v1/schedules":
                self._known.learn("name", made["name"])
            elif "id" in made:
                self._known.learn("render_id", made["id"])
                self._known.learn("job_id", f"{made['id']}-000000")

    # -- bombs -------------------------------------------------------------------------------------------------

    @cached_property
    def _bombs(self) -> Sequence[Bomb]:
        return bombs()

    def bomb(self, rng: Random) -> None:
        """Send one, and render from what is accepted."""
        bomb = rng.choice(self._bombs)
        headers = {**self._key(rng), "Content-Type": bomb.content_type}
        told = self._asked("bomb", "POST", bomb.path, bomb.content, headers, patience=60)
        if told is None:
            return
        self.tally.answered("bomb", f"POST {bomb.path} {bomb.name}", told)
        if bomb.is_manifest and told.status == 201:
            body = json.dumps({"manifest": json.loads(told.words)["id"], "model": "quick"}).encode()
            told = self._asked("bomb", "POST", "/v1/renders", body, {**self._key(rng), **_JSON}, patience=60)
            if told is not None:
                self.tally.answered("bomb", f"POST /v1/renders with {bomb.name}", told)

    # -- keys and addresses ------------------------------------------------------------------------------------

    def with_keys(self, rng: Random) -> None:
        """Ask with keys that are revoked, forged, or nobody's; in each way in which keys are given."""
        key = rng.choice((self.badges.revoked, *self.badges.forged))
        form = rng.choice(("bearer", "header", "basic"))
        if form == "bearer":
            headers = {"Authorization": f"Bearer {key}"}
        elif form == "header":
            headers = {"X-API-Key": key}
        else:
            headers = {"Authorization": "Basic " + base64.b64encode(f"anybody:{key}".encode()).decode()}
        method, path, content = rng.choice((("GET", "/v1/renders", b""), ("POST", "/v1/renders", b'{"prompt": "a"}')))
        told = self._asked("forged or revoked key", method, path, content, {**headers, **_JSON})
        if told is not None:
            self.tally.answered("forged or revoked key", f"{method} {path} {form} {key[:30]}", told, may_pass=False)

    def signed_addresses(self, rng: Random) -> None:
        """Ask for a picture by an address that was signed, again and again, and by changed ones; without a key."""
        if rng.random() < 0.5:
            told = self._asked("replayed address", "GET", self.badges.signed, b"", {})
            if told is not None:
                self.tally.answered("replayed address", f"GET {self.badges.signed}", told)
            return
        forged = rng.choice(self.badges.forged_addresses)
        told = self._asked("forged address", "GET", forged, b"", {})
        if told is not None:
            self.tally.answered("forged address", f"GET {forged}", told, may_pass=False)

    # -- manners -----------------------------------------------------------------------------------------------

    def slow(self, rng: Random) -> None:
        """Send heads and bodies byte by byte, many at once, and never end them."""
        head = f"POST /v1/renders HTTP/1.1\r\nHost: farm\r\nAuthorization: Bearer {self.badges.key}\r\n"
        body = head + "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        with ExitStack() as held:
            crowd = [held.enter_context(closing(self._connection())) for _ in range(_SLOW_AT_ONCE)]
            for number, one in enumerate(crowd):
                _send(one, body if number % 2 else head)
            for _ in range(rng.randint(4, 20)):
                if self.stop.wait(_DRIP_SECONDS):
                    break
                for number, one in enumerate(crowd):
                    _send(one, " " if number % 2 else "X")
        for number in range(len(crowd)):
            self.tally.ended("slow client", "dripped a body" if number % 2 else "dripped headers")

    def vanishing(self, rng: Random) -> None:
        """Wait for pictures and follow renders, many at once, and close the connections half-way."""
        # For a model that nobody serves: nothing would be waited for otherwise.
        waiting = json.dumps({"prompt": "a star", "model": "slow"})
        with ExitStack() as held:
            crowd = [held.enter_context(closing(self._connection())) for _ in range(_VANISHING_AT_ONCE)]
            renders = self._known.own.get("render_id") or ["-"]
            for number, one in enumerate(crowd):
                head = f"Host: farm\r\nAuthorization: Bearer {self.badges.key}\r\nContent-Type: application/json\r\n"
                if number % 2:
                    _send(one, f"GET /v1/renders/{rng.choice(renders)}/events HTTP/1.1\r\n{head}\r\n")
                else:
                    words = f"POST /v1/images/generations HTTP/1.1\r\n{head}Content-Length: {len(waiting)}\r\n\r\n"
                    _send(one, words + waiting[: rng.choice((5, len(waiting), len(waiting), len(waiting)))])
            self.stop.wait(rng.uniform(0.1, 2.0))
        for number in range(len(crowd)):
            self.tally.ended("vanishing client", "left a stream" if number % 2 else "left while it waited")

    def crowding(self, rng: Random) -> None:
        """Wait for a render and follow it with more connections than a key may have, and stay for a while."""
        # Held for years, and submitted again and again under one key: it needs no device.
        body = json.dumps({"prompt": "a star", "model": "slow", "not_before": "2099-01-01 00:00"})
        head = f"Host: farm\r\nAuthorization: Bearer {self.badges.key}\r\n"
        waits = f"POST /v1/renders HTTP/1.1\r\n{head}Content-Type: application/json\r\nIdempotency-Key: crowd\r\n"
        waits += f"Prefer: wait=60\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        headers = {**_JSON, "Authorization": f"Bearer {self.badges.key}", "Idempotency-Key": "crowd"}
        told = self._asked("caller in a crowd", "POST", "/v1/renders", body.encode(), headers, patience=60)
        if told is None or told.status != 202:
            return
        follows = f"GET /v1/renders/{json.loads(told.words)['id']}/events HTTP/1.1\r\n{head}\r\n"
        with ExitStack() as held:
            crowd: list[socket.socket] = []
            while len(crowd) < 2 * _CROWD_OF_EACH and not self.stop.wait(self.pace.arrivals):
                crowd.append(held.enter_context(closing(self._connection())))
                _send(crowd[-1], waits if len(crowd) % 2 else follows)
            self.stop.wait(rng.uniform(2.0, 20.0))
            for number, one in enumerate(crowd):
                self._told("stream in a crowd" if number % 2 else "caller in a crowd", one)

    def _told(self, kind: str, connection: socket.socket) -> None:
        """Note what a connection was answered so far."""
        connection.settimeout(0.0)
        try:
            head, _, words = connection.recv(_MOST_READ).decode(errors="replace").partition("\r\n\r\n")
        except BlockingIOError:
            self.tally.ended(kind, "waited")
            return
        except OSError as error:
            self.tally.ended(kind, f"cut off ({type(error).__name__})")
            return
        if not head:
            self.tally.ended(kind, "cut off")
            return
        after = re.search(r"^retry-after: *(\S+)", head, re.M | re.I)
        status = int(head.split(" ", 2)[1])
        self.tally.answered(
            kind, f"{kind} /v1/renders", Told(status=status, retry_after=after and after[1], words=words)
        )

    # -- asking ------------------------------------------------------------------------------------------------

    def _key(self, rng: Random) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.badges.key}"} if rng.random() < 0.9 else {}

    def _connection(self) -> socket.socket:
        url = urlsplit(self.address)
        return socket.create_connection((url.hostname, url.port or 80), timeout=30)

    @cached_property
    def _client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=20, max_keepalive_connections=10)
        return httpx.Client(base_url=self.address, limits=limits)

    def _asked(
        self,
        kind: str,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        patience: float = _PATIENCE,
    ) -> Told | None:
        """Send a request; None if it was not answered in time, which is counted."""
        ends_at = time.monotonic() + patience
        said = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        try:
            with self._client.stream(
                method, path, content=content, headers=said, timeout=patience, follow_redirects=False
            ) as answer:
                words = b""
                for piece in answer.iter_raw():
                    words += piece
                    if len(words) > _MOST_READ or time.monotonic() > ends_at:
                        break
                told = words.decode(errors="replace")
                return Told(status=answer.status_code, retry_after=answer.headers.get("retry-after"), words=told)
        except httpx.TimeoutException:
            self.tally.ended(kind, "gave up waiting")
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            self.tally.ended(kind, "could not be sent")
        except httpx.TransportError as error:
            # Of a body that is refused before it was read to its end.
            self.tally.ended(kind, f"cut off ({type(error).__name__})")
        return None


def _send(connection: socket.socket, text: str) -> None:
    # The other side may have had enough of it.
    with suppress(OSError):
        connection.sendall(text.encode())


class Invading:
    """All strangers, in a process of their own."""

    def __init__(self, address: str, badges: Badges, pace: Pace, seed: int, log: Path) -> None:
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.strangers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        order = {"address": address, "badges": asdict(badges), "pace": asdict(pace), "seed": seed}
        print(json.dumps(order), file=self._process.stdin, flush=True)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> Answers:
        """Make them leave; what they sent and were told. Raises AssertionError if they failed."""
        told, _ = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, "the strangers failed; see their log"
        return Answers(**json.loads(told))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Be all strangers until standard input ends."""
    order, stop = json.loads(sys.stdin.readline()), Event()
    strangers = Strangers(
        address=order["address"],
        badges=Badges(**order["badges"]),
        pace=Pace(**order["pace"]),
        seed=order["seed"],
        stop=stop,
    )

    def leave_at_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=leave_at_the_end, daemon=True).start()
    strangers.run()
    sys.stdout.write(json.dumps(asdict(strangers.tally.result())) + "\n")


if __name__ == "__main__":
    main()
