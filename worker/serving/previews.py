"""Previews of pictures at the device, for those who watch them: seldom enough, carried away by a thread of its own."""

import io
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from storage.broker.previews import Preview
from storage.errors import RenderFault, ServiceProblem
from storage.jobs.values import ClaimedJob
from storage.process.logs import LogThrottle
from worker.rendering.backend import Look, NoPreview, SmallPictures
from worker.serving.preview_budget import PreviewBudget

log = logging.getLogger(__name__)

#: How often it is asked whether anybody watches what is in hand; what is new in hand is asked for at once.
_ASK_SECONDS = 0.5
#: A picture is not shown anew more often.
_PAUSE_SECONDS = 0.25
#: How often it is said of a picture that it cannot be shown.
_SAID_SECONDS = 10.0
#: After a fault of previews: how long a model goes without.
_FAULT_SECONDS = 60.0
_QUALITY = 80


class PreviewCarrier(Protocol):
    """What tells who watches, and brings previews to them (`storage.broker.previews.Previews`)."""

    def watched(self, names: Collection[str]) -> set[str]: ...

    def put(self, previews: Iterable[Preview]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A job that a call of the model has moved, and how many of its steps are made."""

    job: ClaimedJob
    step: int
    steps: int

    def preview(self) -> Preview:
        return Preview(job=self.job.name, attempt=self.job.attempt, step=self.step, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Previews that the device was asked for."""

    shown: Sequence[Shown]
    small: SmallPictures
    #: What asking for them took.
    seconds: float


class PreviewMaker:
    """Notes what is in hand and looks at what somebody watches; nothing is read from the device for anybody else."""

    def __init__(self, carrier: PreviewCarrier | None = None, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        """Without a carrier nobody can watch."""
        self._carrier = carrier
        self._pause_seconds = pause_seconds
        self._budget = PreviewBudget()
        self._lock = threading.Lock()
        self._news = threading.Event()
        #: By id, the jobs in hand; and which of them somebody watches.
        self._held: dict[int, ClaimedJob] = {}
        self._watched: frozenset[int] = frozenset()
        #: When each of them was looked at.
        self._looked_at: dict[int, float] = {}
        self._asked: _Asked | None = None
        #: Between asking the device and knowing what it took.
        self._busy = False
        #: What previews took that were carried, in seconds, and how many they were.
        self._took: deque[tuple[float, int]] = deque()
        #: What is to be said of pictures that cannot be looked at.
        self._said: list[Preview] = []
        #: Model → until when it goes without.
        self._without: dict[str, float] = {}
        self._throttle = LogThrottle()

    def start(self) -> None:
        """Carry from now on, on a thread of its own."""
        if self._carrier is not None:
            threading.Thread(target=self._carry, args=(self._carrier,), name="previews", daemon=True).start()

    def called(self, shown: Sequence[Shown], seconds: float, look: Look) -> None:
        """Note a call of the model for these jobs, which took so long, and look at those that are watched and due.

        Whatever goes wrong with that is said in the log: the pictures go on.
        """
        if self._carrier is None:
            return
        self._hold(shown)
        while self._took:
            self._budget.made(*self._took.popleft())
        watched = self._watched
        due = [place for place, one in enumerate(shown) if one.job.id in watched and one.step < one.steps]
        self._budget.called(seconds, watched=len(due))
        now = time.monotonic()
        due = [place for place in due if now - self._looked_at.get(shown[place].job.id, -1e9) >= self._pause_seconds]
        if due and not self._busy and self._without.get(shown[due[0]].job.spec.model, now) <= now:
            # Those first that waited longest.
            due.sort(key=lambda place: self._looked_at.get(shown[place].job.id, -1e9))
            if places := due[: self._budget.affords(len(due))]:
                self._look(shown, places, look)

    def rest(self) -> None:
        """Note that nothing is in hand."""
        with self._lock:
            self._held = {}
            self._watched = frozenset()
            self._looked_at.clear()

    def _hold(self, shown: Sequence[Shown]) -> None:
        held = {one.job.id: one.job for one in shown}
        before = self._held.keys()
        if held.keys() == before:
            return
        with self._lock:
            self._held = held
        for gone in self._looked_at.keys() - held.keys():
            del self._looked_at[gone]
        if held.keys() - before:
            self._news.set()

    def _look(self, shown: Sequence[Shown], places: Sequence[int], look: Look) -> None:
        began, now = time.perf_counter(), time.monotonic()
        chosen = [shown[place] for place in places]
        self._looked_at |= dict.fromkeys((one.job.id for one in chosen), now)
        try:
            small = look(places)
        except NoPreview as error:
            self._say(chosen, str(error))
        except RenderFault as error:
            # If the device is broken, its next call says so, too.
            model = chosen[0].job.spec.model
            self._without[model] = now + _FAULT_SECONDS
            log.warning("no previews for a while", extra={"model": model, "error": error})
            self._say(chosen, f"making it failed: {error}")
        else:
            self._busy = True
            self._asked = _Asked(shown=chosen, small=small, seconds=time.perf_counter() - began)
        self._news.set()

    def _say(self, chosen: Sequence[Shown], why: str) -> None:
        self._looked_at |= dict.fromkeys((one.job.id for one in chosen), time.monotonic() + _SAID_SECONDS)
        with self._lock:
            self._said = [replace(one.preview(), why_none=why) for one in chosen]

    # -- on the thread -----------------------------------------------------------------------------------------

    def _carry(self, carrier: PreviewCarrier) -> None:
        # What the first picture takes to be written is no measure of the others.
        webp(Image.new("RGB", (8, 8)))
        while True:
            # With nothing in hand, until there is.
            self._news.wait(_ASK_SECONDS if self._held else None)
            self._news.clear()
            try:
                self.carry_once(carrier)
            except ServiceProblem as error:
                if self._throttle.passes():
                    log.warning("previews not carried", extra={"error": error})
                time.sleep(_ASK_SECONDS)
            except Exception:
                # Of a picture that cannot be written, or a device that is broken: the next one may be.
                if self._throttle.passes("fault"):
                    log.exception("a preview was not carried")

    def carry_once(self, carrier: PreviewCarrier) -> None:
        """Carry what was asked for, and ask who watches. Raises BrokerProblem."""
        asked, self._asked = self._asked, None
        with self._lock:
            said, self._said = self._said, []
        if asked is not None:
            said += self._made(asked)
        if said:
            carrier.put(said)
        self._ask(carrier)

    def _made(self, asked: _Asked) -> list[Preview]:
        """Wait for the device, and return previews. Raises whatever libraries raise."""
        began, seconds = time.thread_time(), 0.0
        try:
            pictures, seconds = asked.small.fetch()
            return [replace(one.preview(), image=webp(it)) for one, it in zip(asked.shown, pictures, strict=True)]
        finally:
            # Of a processor what this thread took, too: on a CPU it is the device's.
            self._took.append((asked.seconds + seconds + time.thread_time() - began, len(asked.shown)))
            self._busy = False

    def _ask(self, carrier: PreviewCarrier) -> None:
        held = self._held
        names = {job.name for job in held.values()} | {job.render_id for job in held.values()}
        found = carrier.watched(names)
        watched = frozenset(one for one, job in held.items() if {job.name, job.render_id} & found)
        with self._lock:
            if self._held is held:
                self._watched = watched


def webp(picture: Image.Image) -> bytes:
    """Return a small picture as a WebP file."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()


class BatchLooks:
    """Looks at the pictures of a batch after its steps (`worker.rendering.backend.LoadedModel.render`)."""

    def __init__(self, previews: PreviewMaker, jobs: Sequence[ClaimedJob], *, steps: int) -> None:
        self._previews = previews
        self._jobs = jobs
        self._steps = steps
        #: By the first job of a call; a batch may be made by several.
        self._made: Counter[int] = Counter()
        self._at = time.perf_counter()

    def __call__(self, positions: Sequence[int], look: Look) -> None:
        seconds = time.perf_counter() - self._at
        self._made[positions[0]] += 1
        step = min(self._made[positions[0]], self._steps)
        shown = [Shown(job=self._jobs[position], step=step, steps=self._steps) for position in positions]
        self._previews.called(shown, seconds, look)
        self._at = time.perf_counter()
