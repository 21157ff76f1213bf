import pytest

from scheduler.cli.output import counted, duration, print_table, rate
from scheduler.cli.progress import RenderPace
from storage.renders.views import RenderView
from storage.rules.states import Priority


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def render(*, done: int, total: int = 100, failed: int = 0, cancelled: int = 0) -> RenderView:
    return RenderView(
        id="r",
        owner="ann",
        priority=Priority.NORMAL,
        total=total,
        done=done,
        failed=failed,
        cancelled=cancelled,
        created_at=0.0,
        finished_at=None,
    )


def test_a_pace_is_unknown_until_pictures_came_at_two_moments() -> None:
    clock = Clock()
    pace = RenderPace(clock)
    assert pace.see(render(done=0)) == (None, None)
    clock.now += 60  # the model loads
    assert pace.see(render(done=8)) == (None, None)
    assert pace.see(render(done=16)) == (None, None)  # at the same moment
    clock.now += 2
    assert pace.see(render(done=8)) == (None, None)


def test_a_pace_counts_from_the_first_picture_so_that_loading_does_not_slow_it() -> None:
    clock = Clock()
    pace = RenderPace(clock)
    pace.see(render(done=0))
    clock.now += 60
    pace.see(render(done=10))
    clock.now += 10
    assert pace.see(render(done=30)) == (2.0, 35.0)


def test_failed_and_cancelled_jobs_count_as_behind_us() -> None:
    clock = Clock()
    pace = RenderPace(clock)
    pace.see(render(done=5, failed=5))
    clock.now += 10
    assert pace.see(render(done=10, failed=10, cancelled=10)) == (2.0, 35.0)


def test_nothing_is_left_of_a_finished_render() -> None:
    clock = Clock()
    pace = RenderPace(clock)
    pace.see(render(done=50))
    clock.now += 10
    assert pace.see(render(done=100)) == (5.0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (3.14, "3.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (11_520, "3 h 12 min"),
        (86_400, "1 day"),
        (90_061, "1 day 1 h"),
        (604_800, "7 days"),
    ],
)
def test_a_duration_is_shown_in_the_unit_that_people_would_use(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("per_second", "shown"), [(0.02, "1.2/min"), (0.1, "0.1/s"), (99.94, "99.9/s"), (1860.1, "1,860/s")]
)
def test_a_rate_is_shown_with_as_many_digits_as_mean_something(per_second: float, shown: str) -> None:
    assert rate(per_second) == shown


@pytest.mark.parametrize(("n", "shown"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_things_are_counted_in_words(n: int, shown: str) -> None:
    assert counted(n, "job") == shown


def test_a_table_into_a_pipe_keeps_every_word_and_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "PROMPT"], [("a", "[bold]a red star[/bold]"), ("b", None)])
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["NAME", "PROMPT"],
        ["a", "[bold]a red star[/bold]"],
        ["b"],
    ]
