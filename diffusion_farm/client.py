"""A client of the farm's HTTP API::

    from diffusion_farm import Farm

    farm = Farm("http://127.0.0.1:8000")
    render = farm.submit(["a large red star", "a small green circle"], n=2)
    for picture in farm.images(render):
        picture.save("pictures")

It imports nothing of the farm itself, so it runs where only httpx is installed.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from diffusion_farm.problems import ApiProblem, problem_of
from diffusion_farm.schedules import FarmSchedules

_POLL_SECONDS = 0.25
_LONGEST_POLL_SECONDS = 2.0
_PAGE = 500
#: For idempotent requests: those that change nothing, or carry an idempotency key.
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Render:
    """The state of a render at the time of the request."""

    id: str
    #: waiting, running, held, done, failed or cancelled
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
    #: The same as text (RFC 3339).
    created_time: str
    finished_at: float | None
    finished_time: str | None
    #: It is not rendered before then, and only at these times of day of this zone; None: at any time.
    not_before: float | None = None
    window: str | None = None
    timezone: str | None = None
    #: What its owner calls it, and says of it.
    name: str | None = None
    note: str | None = None
    #: Of its pictures, by alias.
    models: Sequence[str] = ()
    #: Pictures ahead of its next one in the queue; None if unknown.
    position: int | None = None
    seconds_left: float | None = None
    #: What it waits for, in a sentence; None in lists, and where it does not wait.
    why: str | None = None
    #: Only in the answer to `submit`.
    seeds: Sequence[int] = ()
    remarks: Sequence[str] = ()

    @property
    def finished(self) -> bool:
        return self.done + self.failed + self.cancelled == self.total


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture: PNG data, with its recipe in the metadata."""

    job: str
    index: int
    seed: int
    prompt: str
    data: bytes

    def save(self, folder: str | Path) -> Path:
        """Write `<index>-<seed>.png` into a folder, which is created if missing; return its path.

        Another picture that is there under this name is kept: then this one has its render's id in its name.
        """
        file = Path(folder) / f"{self.index:06d}-{self.seed}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.read_bytes() != self.data:
            file = file.with_stem(f"{file.stem}-{self.job.rpartition('-')[0]}")
        file.write_bytes(self.data)
        return file


class Farm:
    """A connection to a farm. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, key: str | None = None, timeout: float = 30) -> None:
        """
        Args:
            url: where `farm api` listens.
            key: an API key (`farm keys create`); a farm on this machine may not require one.
            timeout: seconds allowed for a single request.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, follow_redirects=False)
        #: Recurring renders.
        self.schedules = FarmSchedules(self._ask)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def submit(
        self, prompt: str | Sequence[str] | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Render:
        """Submit a render: prompts, any field of a picture, `n`, `priority`, and lists in `zip` and `product`.

        With an idempotency key the call is safe to repeat, even if its answer was lost. Raises ApiProblem.
        """
        if fields.get("dry_run"):
            raise ValueError("dry_run: a dry run makes no render that could be returned; use `check`")
        body = _body(prompt, fields)
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        answer = self._ask("POST", "/v1/renders", again=idempotency_key is not None, json=body, headers=headers)
        return _render(answer.json())

    def submit_manifest(self, file: str | Path, *, idempotency_key: str | None = None, **fields: Any) -> Render:
        """Submit every row of a prompt file (.txt, .jsonl, .csv, .tsv, .json, .parquet).

        `fields` are defaults for its rows. With an idempotency key the call is safe to repeat. Raises ApiProblem.
        """
        path = Path(file)
        with path.open("rb") as data:
            answer = self._ask(*("POST", "/v1/files"), files={"file": (path.name, data)}, data={"purpose": "manifest"})
        return self.submit(manifest=answer.json()["id"], idempotency_key=idempotency_key, **fields)

    def get(self, render: Render | str) -> Render:
        """Return the current state of a render. Raises ApiProblem (404) if there is none."""
        return _render(self._ask("GET", f"/v1/renders/{_id(render)}").json())

    def wait(self, render: Render | str, *, progress: bool = False, timeout: float | None = None) -> Render:
        """Wait until every picture is done, failed or cancelled; with `progress`, count them on standard error.

        Raises ApiProblem, and TimeoutError after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _POLL_SECONDS
        counted = -1
        while True:
            now = self.get(render)
            finished = now.done + now.failed + now.cancelled
            if progress and finished != counted:
                counted = finished
                sys.stderr.write(f"render {now.id}: {finished} of {now.total}\n")
            if now.finished:
                return now
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"render {now.id} has {now.done} of {now.total} pictures after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_POLL_SECONDS)

    def images(self, render: Render | str) -> Iterator[Picture]:
        """Yield each picture once, as it finishes; ends when the render does. Raises ApiProblem."""
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

    def save_zip(self, render: Render | str, file: str | Path, *, label: str | None = None) -> Path:
        """Write the pictures that are finished into one ZIP archive, as they come; memory stays flat.

        `label`: only those with this one, `NAME=VALUE`. Nothing is left of an archive that was cut off. Raises
        ApiProblem, httpx.TransportError.
        """
        path = Path(file)
        unfinished = path.with_name(f".{path.name}.part")
        parameters = {} if label is None else {"label": label}
        try:
            with self._http.stream("GET", f"/v1/renders/{_id(render)}/pictures.zip", params=parameters) as answer:
                if answer.status_code != 200:
                    answer.read()
                    _checked(answer)
                with unfinished.open("wb") as to:
                    to.writelines(answer.iter_bytes())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def grid(self, render: Render | str, **axes: Any) -> bytes:
        """Return a grid of the pictures as PNG; `axes`: the API's parameters, such as x="steps". Raises ApiProblem."""
        return self._ask("GET", f"/v1/renders/{_id(render)}/grid", params=axes).content

    def events(self, render: Render | str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the events of a render until it is finished, each once and in order, reconnecting as needed.

        An event is the JSON that the API sends, plus its `kind`. Events of the kind `progress` have no `seq`. Raises
        ApiProblem.
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
            # The next answer tells whether the render is finished: 204.
            time.sleep(pause)

    def check(self, prompt: str | Sequence[str] | None = None, **fields: Any) -> dict[str, Any]:
        """Check what `submit` would submit, and accept nothing: its pictures, models, remarks and expected time.

        Raises ApiProblem.
        """
        told: dict[str, Any] = self._ask("POST", "/v1/renders", again=True, json=_body(prompt, fields, dry=True)).json()
        return told

    def renders(self, **filters: Any) -> Iterator[Render]:
        """Yield your renders, newest first; `filters` are the API's parameters of that list. Raises ApiProblem."""
        after: str | None = None
        while True:
            parameters = {"limit": _PAGE, **filters, **({} if after is None else {"after": after})}
            page = self._ask("GET", "/v1/renders", params=parameters).json()
            yield from map(_render, page["renders"])
            after = page["next"]
            if after is None:
                return

    def hold(self, render: Render | str) -> Render:
        """Take what waits of a render out of the queue until it is released. Idempotent. Raises ApiProblem."""
        return _render(self._ask("POST", f"/v1/renders/{_id(render)}/hold", again=True).json())

    def release(self, render: Render | str) -> Render:
        """Put what is held of a render back into the queue. Idempotent. Raises ApiProblem."""
        return _render(self._ask("POST", f"/v1/renders/{_id(render)}/release", again=True).json())

    def retry(self, render: Render | str) -> int:
        """Queue the failed pictures of a render again and return how many there are. Raises ApiProblem."""
        return int(self._ask("POST", f"/v1/renders/{_id(render)}/retry").json()["retried"])

    def reprioritise(self, render: Render | str, priority: str) -> Render:
        """Change the priority of what waits: interactive, normal or bulk. Idempotent. Raises ApiProblem."""
        body = {"priority": priority}
        return _render(self._ask("PATCH", f"/v1/renders/{_id(render)}", again=True, json=body).json())

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as the API's JSON has it, with its specification and recipe. Raises ApiProblem."""
        told: dict[str, Any] = self._ask("GET", f"/v1/jobs/{job_id}").json()
        return told

    def thumbnail(self, job: dict[str, Any] | str, *, size: int = 256) -> bytes:
        """Return a finished picture made small, as WebP: 64, 128, 256 or 512 pixels at most. Raises ApiProblem."""
        job_id = job if isinstance(job, str) else job["id"]
        return self._ask("GET", f"/v1/jobs/{job_id}/thumbnail", params={"size": size}).content

    def preview(self, job: dict[str, Any] | str) -> bytes | None:
        """Return how a picture looks that is being rendered, as WebP; None: not seen yet, ask again in a second.

        Whoever asks is a watcher, and only what is watched has previews. Raises NotFoundProblem if there is none.
        """
        job_id = job if isinstance(job, str) else job["id"]
        return self._ask("GET", f"/v1/jobs/{job_id}/preview").content or None

    def models(self) -> list[dict[str, Any]]:
        """Return the models as the API's JSON has them. Raises ApiProblem."""
        return list(self._ask("GET", "/v1/models").json()["data"])

    def cancel(self, render: Render | str) -> int:
        """Cancel the unfinished pictures and return how many there were. Idempotent. Raises ApiProblem."""
        return int(self._ask("DELETE", f"/v1/renders/{_id(render)}").json()["cancelled"])

    def delete(self, render: Render | str) -> None:
        """Delete a render for good, with its pictures; what is unfinished is cancelled. Raises ApiProblem.

        409 while an export of it is unfinished; 404 if it is gone already.
        """
        self._ask("DELETE", f"/v1/renders/{_id(render)}", params={"purge": True})

    def upload(self, file: str | Path) -> str:
        """Upload a conditioning image or embeddings; return the reference to use in a picture's fields. Idempotent."""
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
            # The redirect leads to the object store, which must not see our key.
            answer = httpx.get(answer.headers["location"], timeout=self._http.timeout)
            if not answer.is_success:
                # Not httpx's error: it quotes the address, which lets in whoever reads it.
                raise ApiProblem(answer.status_code, f"the object store answers HTTP {answer.status_code}")
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
    """Parse server-sent events of the form that the farm sends: one line of data each."""
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
        told = answer.json()
    except ValueError:
        told = None
    raise problem_of(answer.status_code, told, answer.headers)


def _body(prompt: str | Sequence[str] | None, fields: dict[str, Any], *, dry: bool = False) -> dict[str, Any]:
    said = {} if prompt is None else {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
    return {**said, **fields, **({"dry_run": True} if dry else {})}


def _render(fields: dict[str, Any]) -> Render:
    return Render(**{name: fields[name] for name in Render.__dataclass_fields__ if name in fields})


def _id(render: Render | str) -> str:
    return render if isinstance(render, str) else render.id
