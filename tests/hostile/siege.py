"""An undisturbed phase, a hostile one, and what of the farm's promises held."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from storage.access.keys import Limits
from tests.forks import Starter
from tests.hostile.honest import HONEST, Felt, HonestUser, feel
from tests.hostile.services import Besieged, besieged
from tests.hostile.strangers import Badges, Invading, Pace

#: Of the hostile phase, within these bounds: enough answers for a 99th percentile.
_UNDISTURBED_SHARE, _LEAST_UNDISTURBED, _MOST_UNDISTURBED = 0.1, 30.0, 300.0
_LOOK_SECONDS = 2.0
#: Memory counts as flat if the last third of the hostile phase has no more than this beyond the middle third.
_GROWTH_SHARE, _GROWTH_MIB = 0.1, 20.0
_SETTLING_SECONDS = 300.0
_STRANGER = "mallory"
#: Generous, and finite: what strangers may have of the farm.
_LIMITS = Limits(queued=400, per_day=1_000_000, per_minute=3000, work=512 * 512 * 50)

Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a run is asked for."""

    seconds: float
    seed: int = 1
    #: How many times slower than undisturbed an honest user's answers may be, at the median and at the 99th percentile.
    most_ratio: float = 3.0
    most_healthz: float = 1.0
    pace: Pace = field(default_factory=Pace)
    undisturbed: float | None = None

    @property
    def undisturbed_seconds(self) -> float:
        if self.undisturbed is not None:
            return self.undisturbed
        return min(_MOST_UNDISTURBED, max(_LEAST_UNDISTURBED, _UNDISTURBED_SHARE * self.seconds))


@dataclass(kw_only=True)
class Siege:
    """What was measured."""

    undisturbed: Felt
    hostile: Felt
    requests: Mapping[str, Mapping[str, int]]
    errors: Sequence[str]
    errors_in_all: int
    let_in: Sequence[str]
    #: Process → MiB, every two seconds of the hostile phase.
    memory: Mapping[str, Sequence[float]]
    lost: Sequence[str]
    doubled: Sequence[str]
    ended: Sequence[str]
    tracebacks: Sequence[str]
    accepted: int

    def ratios(self) -> dict[str, float]:
        """How many times slower than undisturbed answers were: submit and status, median and 99th percentile."""
        return {
            f"{what} {name}": round(hostile[name] / quiet[name], 2)
            for what in ("submit", "status")
            for quiet, hostile in [(quantiles(getattr(self.undisturbed, what)), quantiles(getattr(self.hostile, what)))]
            for name in ("median_ms", "p99_ms")
            if quiet and hostile
        }

    def memory_by_thirds(self) -> dict[str, list[float]]:
        """Process → MiB at the start, and in the middle and the last third of the hostile phase (medians)."""
        return {
            name: [round(one, 1) for one in (of[0], _third(of, 1), _third(of, 2))]
            for name, of in self.memory.items()
            # Children that read a prompt file come and go.
            if len(of) > max(map(len, self.memory.values())) / 2
        }

    def broken(self, terms: Terms) -> list[str]:
        """The promises that did not hold, in words."""
        found = [f"an answer with 5xx: {error}" for error in self.errors[:5]] + (
            [f"… {self.errors_in_all} answers with 5xx in all"] if self.errors_in_all > 5 else []
        )
        found += [f"let in: {one}" for one in self.let_in[:5]]
        found += [f"lost: {one}" for one in self.lost[:5]] + [f"doubled: {one}" for one in self.doubled[:5]]
        found += [
            f"an honest user's request failed: {one}" for one in (*self.hostile.errors, *self.undisturbed.errors)[:5]
        ]
        found += [f"traceback: {one}" for one in dict.fromkeys(self.tracebacks)][:5]
        found += self.ended
        found += [
            f"{what}: {ratio} times that of the undisturbed phase, promised {terms.most_ratio:g}"
            for what, ratio in self.ratios().items()
            if ratio > terms.most_ratio
        ]
        slowest = max((*self.hostile.healthz, *self.undisturbed.healthz), default=0.0)
        if slowest > terms.most_healthz:
            found.append(f"/healthz answered after {slowest:.2f} s, promised {terms.most_healthz:g} s")
        found += [
            f"memory of {name} grew from {middle} to {end} MiB between the middle and the end"
            for name, (_, middle, end) in self.memory_by_thirds().items()
            if end - middle > max(_GROWTH_MIB, _GROWTH_SHARE * middle)
        ]
        return found

    def fields(self, terms: Terms) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "terms": asdict(terms),
            **{
                phase: {what: quantiles(getattr(felt, what)) for what in ("submit", "status", "healthz")}
                | {"errors": felt.errors}
                for phase, felt in (("undisturbed", self.undisturbed), ("hostile", self.hostile))
            },
            "ratios": self.ratios(),
            "memory_mib": self.memory_by_thirds(),
            "requests": self.requests,
            "answers_5xx": self.errors_in_all,
            "examples_5xx": self.errors,
            "let_in": self.let_in,
            "renders_accepted": self.accepted,
            "lost": self.lost,
            "doubled": self.doubled,
            "ended": self.ended,
            "tracebacks": self.tracebacks,
            "broken": self.broken(terms),
        }


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Return number, median, 99th percentile and maximum, in milliseconds; nothing where nothing was answered."""
    if not times:
        return {}
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


def _third(of: Sequence[float], number: int) -> float:
    n = len(of)
    return statistics.median(of[number * n // 3 : (number + 1) * n // 3] or of)


def lay(terms: Terms, folder: Path, show: Show, starter: Starter | None = None) -> Siege:
    """Start a farm, let honest users work alone, then beside strangers, and look at what is left.

    Args:
        starter: starts the processes of the farm; as in use, unless another is given.
    """
    show("starting the farm")
    with besieged(folder, starter or Starter()) as farm:
        users = [HonestUser(address=farm.address, owner=owner, key=farm.key(owner)) for owner in HONEST]
        badges = _badges(farm, users[0])
        show(f"undisturbed, {terms.undisturbed_seconds:.0f} s")
        undisturbed = feel(users, farm.address, terms.undisturbed_seconds, threading.Event())
        show(f"strangers, {terms.seconds:.0f} s")
        memory: dict[str, list[float]] = {}
        log = folder / "strangers.log"
        with closing(Invading(farm.address, badges, terms.pace, terms.seed, log)) as invading:
            over = threading.Event()
            watch = threading.Thread(target=_watch, args=(farm, memory, over, invading, show))
            watch.start()
            try:
                hostile = feel(users, farm.address, terms.seconds, over)
            finally:
                over.set()
                watch.join()
            tally = invading.end()
        show("waiting for what was accepted")
        return Siege(
            undisturbed=undisturbed,
            hostile=hostile,
            requests=tally.requests,
            errors=tally.errors,
            errors_in_all=tally.errors_in_all,
            let_in=tally.let_in,
            memory=memory,
            lost=[one for user in users for one in user.lost(farm.services, patience=_SETTLING_SECONDS)],
            doubled=[one for user in users for one in user.beside(farm.services)],
            ended=farm.ended(),
            tracebacks=farm.tracebacks(),
            accepted=sum(len(user.accepted) for user in users),
        )


def _badges(farm: Besieged, victim: HonestUser) -> Badges:
    """What strangers have: a key with limits, a revoked one, and signed addresses of a picture."""
    key = farm.key(_STRANGER, limits=_LIMITS)
    with victim.client() as client:
        # As PNG the store itself would sign it.
        asked = {"prompt": "a star", "model": "quick", "response_format": "url", "output_format": "webp"}
        made = client.post("/v1/images/generations", json=asked).raise_for_status().json()
        signed = httpx.URL(made["data"][0]["url"])
        of_signed = signed.path.rsplit("/", 1)[1].rpartition("-")[0]
        of_victim = client.post("/v1/renders", json={"prompt": "a secret", "n": 2, "model": "quick"}).json()["id"]
        schedule = {"name": "annual", "cron": "0 0 1 1 *", "render": {"prompt": "a secret", "model": "quick"}}
        client.post("/v1/schedules", json=schedule).raise_for_status()
    for render_id, n in ((of_signed, 1), (of_victim, 2)):
        victim.accepted[render_id] = n
    signature = signed.params["signature"]
    return Badges(
        key=key,
        revoked=farm.revoked_key(_STRANGER),
        signed=_path(signed),
        forged_addresses=[
            _path(signed.copy_merge_params({"signature": signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB")})),
            _path(signed.copy_merge_params({"until": "99999999999"})),
            _path(signed.copy_with(path=f"/v1/pictures/{of_victim}-000000")),
            _path(signed.copy_remove_param("signature")),
        ],
        of_others={
            "render_id": [of_signed, of_victim],
            "job_id": [f"{of_victim}-000000", f"{of_victim}-000001"],
            "name": ["annual"],
        },
    )


def _path(url: httpx.URL) -> str:
    return url.raw_path.decode()


def _watch(
    farm: Besieged, memory: dict[str, list[float]], over: threading.Event, invading: Invading, show: Show
) -> None:
    started = time.monotonic()
    while not over.wait(_LOOK_SECONDS):
        for name, mib in farm.memory().items():
            memory.setdefault(name, []).append(mib)
        if invading.has_ended or farm.ended():
            over.set()  # the strangers failed, or the farm: there is nothing more to measure
        show(
            f"strangers, {time.monotonic() - started:.0f} s; "
            + ", ".join(f"{k} {v[-1]:.0f} MiB" for k, v in memory.items())
        )
