"""A client of the farm's HTTP API::

from scheduler.client import Farm

farm = Farm("http://127.0.0.1:8000")
render = farm.submit(["a large red star", "a small green circle"], n=2)
for picture in farm.images(render):
    picture.save("pictures")
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from rich.progress import Progress

from storage.errors import FarmError

_POLL_SECONDS = 0.25
_LONGEST_POLL_SECONDS = 2.0
_PAGE = 500
#: Requests that change nothing, or that carry a name of their own, are made again.
_TRIES = 5


class ApiProblem(FarmError):
    """Raised when the farm refuses a request: its status and words, and the fields that are wrong."""

    def __init__(self, status: int, detail: str, errors: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = list(errors)


@dataclass(frozen=True, kw_only=True)
class Render:
    """How a render stood when it was asked for."""

    id: str
    #: running, held, done, failed or cancelled
    state: str
    owner: str
    #: interactive, normal or bulk
    priority: str
    total: int
    done: int
    failed: int
    cancelled: int
    #: Seconds since 1970.
    created_at: float
    finished_at: float | None
    #: How many pictures are rendered before its next one; None where it is not known.
    position: int | None = None
    seconds_left: float | None = None
    #: Only of one that was just submitted.
    seeds: Sequence[int] = ()
    remarks: Sequence[str] = ()

    @property
    def finished(self) -> bool:
        return self.done + self.failed + self.cancelled == self.total


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture: PNG, with its recipe within."""

    job: str
    index: int
    seed: int
    prompt: str
    data: bytes

    def save(self, folder: str | Path) -> Path:
        """Write it as `<index>-<seed>.png`; the file."""
        file = Path(folder) / f"{self.index:06d}-{self.seed}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.data)
        return file


class Farm:
    """One farm. Safe to share between threads; close it, or use it as a context."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, key: str | None = None, timeout: float = 30) -> None:
        """
        Args:
            key: made by `farm keys create`; a farm on this machine may want none.
            timeout: seconds that a single request may take.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def submit(
        self, prompt: str | Sequence[str] | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Render:
        """Submit pictures: any field of a specification, `n`, `priority`, lists in `zip` and `product`.

        With an idempotency key it may be repeated, also after an answer that was lost. Raises ApiProblem.
        """
        body = {**({} if prompt is None else {"prompt": prompt if isinstance(prompt, str) else list(prompt)}), **fields}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = self._ask("POST", "/v1/renders", again=idempotency_key is not None, json=body, headers=headers)
        return _render(answer.json())

    def submit_manifest(self, file: str | Path, *, idempotency_key: str | None = None, **fields: Any) -> Render:
        """Submit every row of a prompt file (.txt, .jsonl, .csv, .parquet); `fields` for rows that lack them.

        With an idempotency key it may be repeated. Raises ApiProblem.
        """
        path = Path(file)
        with path.open("rb") as data:
            answer = self._ask(*("POST", "/v1/files"), files={"file": (path.name, data)}, data={"purpose": "manifest"})
        return self.submit(manifest=answer.json()["id"], idempotency_key=idempotency_key, **fields)

    def get(self, render: Render | str) -> Render:
        """How a render stands now. Raises ApiProblem (404) if there is none."""
        return _render(self._ask("GET", f"/v1/renders/{_id(render)}").json())

    def wait(self, render: Render | str, *, progress: bool = False, timeout: float | None = None) -> Render:
        """Wait until every picture is done, failed or cancelled. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task(f"render {_id(render)}")
            pause = _POLL_SECONDS
            while True:
                now = self.get(render)
                bar.update(task, total=now.total, completed=now.done + now.failed + now.cancelled)
                if now.finished:
                    return now
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"render {now.id} has {now.done} of {now.total} pictures after {timeout:g} s")
                time.sleep(pause)
                pause = min(pause * 1.3, _LONGEST_POLL_SECONDS)

    def images(self, render: Render | str) -> Iterator[Picture]:
        """The pictures as they are finished, each once; ends with the render. Raises ApiProblem."""
        seen: set[int] = set()
        while True:
            finished = self.get(render).finished
            fresh = [job for job in self.jobs(render, state="done") if job["index"] not in seen]
            for job in fresh:
                seen.add(job["index"])
                yield Picture(
                    job=job["id"],
                    index=job["index"],
                    seed=job["seed"],
                    prompt=job["prompt"],
                    data=self._image(job["image"]),
                )
            if finished and not fresh:
                return
            if not fresh:
                time.sleep(_POLL_SECONDS)

    def events(self, render: Render | str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """What happens to a render until it is finished: each event once and in order, over cut connections too.

        Each is what the API sends, with its `kind`; those of the kind `progress` have no `seq`. Raises ApiProblem.
        """
        seen, pause = after, _POLL_SECONDS
        while True:
            try:
                with self._http.stream(
                    "GET", f"/v1/renders/{_id(render)}/events", headers={"Last-Event-ID": str(seen)}
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code != 200:
                        answer.read()
                        _checked(answer)
                    for event in _events(answer.iter_lines()):
                        seen, pause = event.get("seq", seen), _POLL_SECONDS
                        yield event
            except httpx.TransportError:
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)
            # Whether it is finished, the next answer says: 204.
            time.sleep(pause)

    def cancel(self, render: Render | str) -> int:
        """Cancel what is not finished; how many pictures. Harmless to repeat."""
        return int(self._ask("DELETE", f"/v1/renders/{_id(render)}").json()["cancelled"])

    def upload(self, file: str | Path) -> str:
        """Store a conditioning image or embeddings; how specifications name it. Idempotent."""
        path = Path(file)
        answer = self._ask("POST", "/v1/files", again=True, files={"file": (path.name, path.read_bytes())})
        return str(answer.json()["reference"])

    def jobs(self, render: Render | str, *, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield a render's jobs as the API's JSON has them, in their order; only those in a state if one is named."""
        after: int | None = -1
        while after is not None:
            parameters = {"after": after, "limit": _PAGE, **({} if state is None else {"state": state})}
            page = self._ask("GET", f"/v1/renders/{_id(render)}/jobs", params=parameters).json()
            yield from page["jobs"]
            after = page["next"]

    def _image(self, address: str) -> bytes:
        answer = self._ask("GET", address)
        if answer.is_redirect:
            # To the store, which has no use for our key.
            answer = httpx.get(answer.headers["location"], timeout=self._http.timeout)
            answer.raise_for_status()
        return answer.content

    def _ask(self, method: str, address: str, *, again: bool = False, **parts: Any) -> httpx.Response:
        """Raises ApiProblem, httpx.TransportError."""
        tries = _TRIES if again or method in ("GET", "DELETE") else 1
        for attempt in range(tries):
            last = attempt == tries - 1
            try:
                answer = self._http.request(method, address, **parts)
            except httpx.TransportError:
                if last:
                    raise
            else:
                if answer.status_code not in (429, 503) or last:
                    return _checked(answer)
            time.sleep(_POLL_SECONDS * 2**attempt)
        raise AssertionError("unreachable: the last try returns or raises")


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events, as far as the farm sends them: one line of data each."""
    kind, data = "", ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = value
        elif not line and data:
            yield {"kind": kind, **json.loads(data)}
            kind, data = "", ""


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code < 400:
        return answer
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    raise ApiProblem(answer.status_code, problem.get("detail", f"HTTP {answer.status_code}"), problem.get("errors", ()))


def _render(fields: dict[str, Any]) -> Render:
    return Render(**{name: fields[name] for name in Render.__dataclass_fields__ if name in fields})


def _id(render: Render | str) -> str:
    return render if isinstance(render, str) else render.id
