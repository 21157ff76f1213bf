"""Accepting jobs: the farm's manifest beside a loop that sends a message for each picture."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario

_ROWS = 5_000
_FEW_ROWS = 100


@contextmanager
def _celery(conditions: Conditions) -> Iterator[Round]:
    from celery import Celery

    app = Celery(broker=conditions.servers.redis(), set_as_current=False)
    rows = _FEW_ROWS if conditions.quick else _ROWS

    @app.task(name="render")  # type: ignore[untyped-decorator]
    def render(prompt: str, seed: int) -> None:
        raise AssertionError(f"nobody runs {prompt}, {seed} here")

    def one_round() -> Figures:
        started = time.perf_counter()
        for number in range(rows):
            render.delay(prompt=f"a red star, number {number}", seed=number)
        return {"rows_per_second": rows / (time.perf_counter() - started)}

    with app:
        yield one_round


SCENARIO = Scenario(
    name="submit",
    title="Accepting jobs",
    measures="Rows of a manifest that are accepted a second.",
    limit="the database's inserts; for messages, a round trip to the broker each",
    figures={"rows_per_second": Figure("accepted", "rows/s", "higher")},
    arms=[Arm("Celery .delay", _celery, modules=("celery",))],
)
