"""Renders that are held until a moment, or rendered within a window only; and what is said of them."""

from pathlib import Path

import pytest

from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import submit_order
from scheduler.intake.times import is_shut, read_times
from scheduler.results.json_forms import RenderForm
from scheduler.results.outlook import outlook
from scheduler.services import Services
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.views import Views
from storage.rules.render_times import RenderTimes
from storage.rules.states import State
from storage.settings import Settings
from tests.contract.renders import states
from tests.contract.schedules import TWO_AT_NIGHT, ByTurns, Clock, finish

PARIS = "Europe/Paris"


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    (tmp_path / "models.toml").write_text('[models.tiny]\nkind = "simulated"\n')
    return Services(settings=Settings(home=tmp_path), database=database)


def submit(runner: ByTurns, times: RenderTimes, *, pictures: int = 2) -> str:
    terms = Terms(times=times, held=is_shut(times, runner.clock()))
    order = Order(prompts=("a kitten",), pictures_each=pictures)
    return submit_order(runner.intake, Submitter(owner="ann"), order, terms).render_id


def at(runner: ByTurns, clock: Clock, moment: float) -> None:
    clock.moment = moment
    for long in (False, True):
        runner.windows.run_once(long=long)


def test_a_render_is_held_until_its_moment(runner: ByTurns, clock: Clock, farm: Jobs, database: Database) -> None:
    render_id = submit(runner, RenderTimes(not_before=TWO_AT_NIGHT, timezone=PARIS))
    at(runner, clock, TWO_AT_NIGHT - 1)
    assert states(database, render_id) == [State.HELD] * 2
    assert farm.claim(model="tiny", worker="w1", limit=8) is None
    at(runner, clock, TWO_AT_NIGHT)
    assert states(database, render_id) == [State.QUEUED] * 2
    finish(farm, 2)
    assert Views(database).render(render_id).state == "done"


@pytest.mark.parametrize("pictures", [2, 1001], ids=["short", "long"])
def test_a_render_is_rendered_within_its_window_only(
    runner: ByTurns, clock: Clock, database: Database, pictures: int
) -> None:
    times = RenderTimes(not_before=TWO_AT_NIGHT + 1800, window="02:00-05:00", timezone=PARIS)
    render_id = submit(runner, times, pictures=pictures)
    held = []
    for hours in (0, 0.5, 2.9, 3, 12, 23.9, 24, 26.9, 27):
        at(runner, clock, TWO_AT_NIGHT + hours * 3600)
        held.append({*states(database, render_id)} == {State.HELD})
    assert held == [True, False, False, True, True, True, False, False, True]


def test_between_two_changes_people_hold_and_release_as_they_like(
    runner: ByTurns, clock: Clock, farm: Jobs, database: Database
) -> None:
    render_id = submit(runner, RenderTimes(window="02:00-05:00", timezone=PARIS))
    farm.release(render_id)
    at(runner, clock, TWO_AT_NIGHT - 60)
    assert states(database, render_id) == [State.QUEUED] * 2, "released by hand before it opens"
    at(runner, clock, TWO_AT_NIGHT)
    farm.hold(render_id)
    at(runner, clock, TWO_AT_NIGHT + 60)
    assert states(database, render_id) == [State.HELD] * 2, "held by hand while it is open"


def test_one_whose_zone_is_unknown_here_holds_up_no_other(runner: ByTurns, clock: Clock, database: Database) -> None:
    unknown = submit(runner, RenderTimes(not_before=TWO_AT_NIGHT, timezone=PARIS))
    other = submit(runner, RenderTimes(window="02:00-05:00", timezone=PARIS))
    with database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE renders SET \"window\" = '02:00-05:00', timezone = 'Mars/Base' WHERE id = '{unknown}'"
        )
    at(runner, clock, TWO_AT_NIGHT)
    assert states(database, unknown) == [State.HELD] * 2
    assert states(database, other) == [State.QUEUED] * 2


@pytest.mark.parametrize(
    ("not_before", "window", "says"),
    [
        ("2036-12-01 02:00", None, "held until 2036-12-01 02:00 CET, as it was submitted"),
        (
            "2036-12-01 07:00",
            "01:00-05:00",
            "held until 2036-12-02 01:00 CET: not before then, and rendered only within the window 01:00-05:00",
        ),
    ],
)
def test_what_such_a_render_waits_for_is_said(
    runner: ByTurns, services: Services, not_before: str, window: str | None, says: str
) -> None:
    times, _ = read_times(not_before, window, PARIS, now=TWO_AT_NIGHT)
    assert times is not None
    render = services.views.render(submit(runner, times))
    assert outlook(services, render)["why"] == says
    form = RenderForm.of(render)
    assert (form.not_before, form.window, form.timezone) == (times.not_before, window, PARIS)


def test_one_that_somebody_holds_while_it_may_be_rendered_is_told_apart(
    runner: ByTurns, services: Services, farm: Jobs
) -> None:
    render_id = submit(runner, RenderTimes(not_before=TWO_AT_NIGHT - 86_400, timezone=PARIS))
    farm.hold(render_id)
    said = str(outlook(services, services.views.render(render_id))["why"])
    assert said == f"held until somebody resumes it (`farm release {render_id}`)"


@pytest.mark.parametrize(
    ("not_before", "window", "remark"),
    [
        ("2026-01-01 02:00", None, "not_before: 2026-01-01 02:00 CET is past, so it holds nothing back"),
        (
            "2026-01-03 07:00",
            "01:00-05:00",
            "not_before: outside the window 01:00-05:00; the pictures wait until 2026-01-04 01:00 CET",
        ),
        ("2026-01-03 02:00", "01:00-05:00", None),
    ],
)
def test_times_that_do_not_go_together_are_remarked(not_before: str, window: str | None, remark: str | None) -> None:
    _, remarks = read_times(not_before, window, PARIS, now=TWO_AT_NIGHT)
    assert remarks == ([] if remark is None else [remark])
