"""Schedules that are edited: before a firing or after it, never in the middle; limits; history says why not."""

from dataclasses import replace

import pytest

from scheduler.cron.changes import PlanChange
from scheduler.cron.details import Paces, details
from scheduler.cron.edits import Editor, OrderChange
from scheduler.intake.admission import Submitter
from scheduler.intake.order import Order
from storage.database.connection import Database
from storage.database.schedule_tables import schedules as schedules_table
from storage.errors import BadSpecification, InvalidInput
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.measures import Measures
from storage.renders.schedules import FiringLimits, FiringOutcome, Schedule
from storage.renders.views import Views
from storage.rules.states import Priority, State
from storage.settings import Settings
from tests.contract.firings import Gate, accept, accepting, claimed, rendered, taken
from tests.contract.renders import states
from tests.contract.schedules import NIGHTLY, REGISTRY, TWO_AT_NIGHT, ByTurns, Clock, add, finish, outcomes
from tests.servers import eventually

NOTHING, SAME = PlanChange(), OrderChange()
ANN = Submitter(owner="ann", local_files=True)


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


def again(runner: ByTurns) -> Schedule:
    return runner.schedules.get("nightly", owner="ann")


def edit(
    runner: ByTurns,
    *,
    change: PlanChange = NOTHING,
    order: OrderChange = SAME,
    before: Schedule | None = None,
) -> Schedule:
    editor = Editor(schedules=runner.schedules, intake=runner.intake, settings=Settings())
    return editor.edit(before or again(runner), change, order, ANN)


def prompts_of(database: Database, runner: ByTurns) -> list[str]:
    firing = runner.schedules.history(again(runner), limit=1)[0]
    return [job.spec.prompt for job in Views(database).jobs(str(firing.render_id))]


OTHER = OrderChange(prompts=Order(prompts=("a puppy",)))


# -- safe while it fires ---------------------------------------------------------------------------------------


def test_an_edit_while_it_is_accepted_comes_first_and_what_was_read_before_is_not_rendered(
    runner: ByTurns, database: Database
) -> None:
    taken(runner, add(runner))
    frozen = claimed(runner)
    edit(runner, order=OTHER)
    assert accept(runner, frozen) is None, "as it was before the edit"
    runner.accept_all()
    assert outcomes(runner, again(runner)) == [FiringOutcome.FIRED]
    assert prompts_of(database, runner) == ["a puppy"] * 2


def test_an_edit_while_a_thread_reads_the_prompts_of_a_firing_comes_first(
    runner: ByTurns, clock: Clock, database: Database, gate: Gate
) -> None:
    schedule = add(runner)
    gate.hang(schedule)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting, "a thread reads its prompts")
        edit(runner, order=OTHER)
        gate.open()
        eventually(lambda: outcomes(runner, schedule) == [FiringOutcome.FIRED], "it has fired")
    assert prompts_of(database, runner) == ["a puppy"] * 2
    assert rendered(database) == 1


def test_an_edit_after_it_was_accepted_leaves_that_as_it_was(runner: ByTurns, database: Database) -> None:
    taken(runner, add(runner))
    firing = claimed(runner)
    assert accept(runner, firing) is not None
    edit(runner, order=OTHER)
    assert prompts_of(database, runner) == ["a"] * 2
    assert outcomes(runner, again(runner)) == [FiringOutcome.FIRED]


def test_what_is_due_and_not_accepted_is_given_up_if_the_times_are_others_now(runner: ByTurns) -> None:
    schedule = add(runner)
    taken(runner, schedule)
    frozen = claimed(runner)
    edit(runner, change=PlanChange(cron="0 3 * * *"))
    assert accept(runner, frozen) is None
    runner.accept_all()
    firing = runner.schedules.history(schedule, limit=10_000)[-1]
    assert (firing.planned_at, firing.outcome, firing.note) == (
        TWO_AT_NIGHT,
        FiringOutcome.SKIPPED,
        "the schedule was edited before this was accepted, and has other times now",
    )


def test_times_that_nobody_had_decided_when_they_were_changed_are_told(runner: ByTurns) -> None:
    add(runner, plan=replace(NIGHTLY, cron="0 0 1 1 *"), since=runner.schedules.now() - 800 * 86_400)
    made = edit(runner, change=PlanChange(cron="0 3 * * *"))
    notes = {str(one.note) for one in runner.schedules.history(made)}
    assert outcomes(runner, made) == [FiringOutcome.SKIPPED] * 2
    assert notes == {"the schedule was edited before this was accepted, and has other times now"}


def test_a_tick_and_a_firing_by_hand_do_nothing_by_what_they_read_before_an_edit(runner: ByTurns) -> None:
    before = add(runner)
    edit(runner, order=OTHER)
    assert runner.firings.take(before, {TWO_AT_NIGHT: FiringOutcome.TAKEN}) == 0
    with pytest.raises(InvalidInput, match="nightly was edited while it was fired; nothing was, fire it again"):
        runner.fire_by_hand(before)
    assert outcomes(runner, before) == []
    assert runner.fire_by_hand(again(runner)) is not None


def test_of_two_edits_at_once_the_second_is_told(runner: ByTurns) -> None:
    before = add(runner)
    edit(runner, before=before, change=PlanChange(overlap="skip"))
    with pytest.raises(InvalidInput, match="nightly was edited by somebody else at the same time"):
        edit(runner, before=before, change=PlanChange(overlap="cancel"))
    assert again(runner).plan.overlap == "skip"


# -- what is changed -------------------------------------------------------------------------------------------


def test_history_stays_and_all_that_is_not_said(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="01:00-06:00"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    made = edit(runner, change=PlanChange(cron="30 2 * * *"), order=OrderChange(priority=Priority.BULK))
    assert made.plan == replace(schedule.plan, cron="30 2 * * *")
    assert made.order["priority"] == "bulk"
    assert {**made.order, "priority": 0} == {**schedule.order, "priority": 0}
    assert outcomes(runner, made)[0] == FiringOutcome.FIRED


def test_prompts_are_replaced_and_fields_stay(runner: ByTurns, clock: Clock, database: Database) -> None:
    add(runner, order=Order(prompts=("a kitten",), pictures_each=2, defaults={"width": 64}, combined={"steps": [3, 4]}))
    edit(runner, order=OTHER)
    clock.moment = runner.schedules.now()
    render_id = str(runner.fire_by_hand(again(runner)))
    found = [(job.spec.prompt, job.spec.width, job.spec.num_inference_steps) for job in Views(database).jobs(render_id)]
    assert found == [("a puppy", 64, steps) for steps in (3, 3, 4, 4)]


def test_fields_are_changed_of_stored_rows_that_said_otherwise_too(runner: ByTurns, database: Database) -> None:
    rows = tuple(Order(prompts=("a", "b")).rows())
    wide = tuple(one._replace(request=one.request.model_copy(update={"width": 128})) for one in rows)
    add(runner, order=Order(requests=wide))
    edit(runner, order=OrderChange(fields={"width": 64}, pictures_each=2, seed=7))
    render_id = str(runner.fire_by_hand(again(runner)))
    found = [(job.spec.prompt, job.spec.width, job.spec.seed) for job in Views(database).jobs(render_id)]
    assert found == [("a", 64, 7), ("a", 64, 8), ("b", 64, 9), ("b", 64, 10)]
    assert again(runner).plan.seeds == "same"


def test_a_window_that_is_taken_away_releases_what_it_held(runner: ByTurns, clock: Clock, database: Database) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="03:00-06:00"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert firing.note == "outside its window 03:00-06:00, held until 2026-01-02 03:00 CET"
    assert states(database, str(firing.render_id)) == [State.HELD] * 2
    edit(runner, change=PlanChange(without=frozenset({"window"})))
    runner.run_once()
    assert states(database, str(firing.render_id)) == [State.QUEUED] * 2


@pytest.mark.parametrize(
    ("change", "order", "says"),
    [
        (PlanChange(cron="0 25 * * *"), OrderChange(), "cron: '0 25"),
        (PlanChange(at="2026-01-01 02:00"), OrderChange(), "at: 2026-01-01 02:00 CET is past"),
        (PlanChange(timezone="Mars/Base"), OrderChange(), "timezone: 'Mars/Base'"),
        (PlanChange(window="1-6"), OrderChange(), "window: '1-6'"),
        (PlanChange(cron="@daily", at="2036-01-01 02:00"), OrderChange(), "both were given"),
        (PlanChange(), OrderChange(fields={"model": "nope"}), "'nope'"),
        (PlanChange(), OrderChange(prompts=Order()), "nothing to render"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(
    runner: ByTurns, change: PlanChange, order: OrderChange, says: str
) -> None:
    before = add(runner)
    with pytest.raises(BadSpecification, match=says):
        edit(runner, change=change, order=order)
    assert again(runner) == before


def test_one_that_has_ended_fires_again_at_another_time(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, cron=None, at=TWO_AT_NIGHT, catch_up="last"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    assert again(runner).ended
    made = edit(runner, change=PlanChange(at="2036-01-01 02:00"))
    assert not made.ended
    clock.moment = float(made.plan.at or 0)
    runner.run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.FIRED] * 2


def test_what_is_to_fire_once_instead_happens_late_unless_somebody_said_otherwise(runner: ByTurns) -> None:
    add(runner)
    assert edit(runner, change=PlanChange(at="2036-01-01 02:00")).plan.catch_up == "last"
    assert edit(runner, change=PlanChange(at="2036-01-02 02:00", catch_up="none")).plan.catch_up == "none"
    assert edit(runner, change=PlanChange(at="2036-01-03 02:00")).plan.catch_up == "none"
    assert edit(runner, change=PlanChange(cron="@daily", catch_up="all")).plan.catch_up == "all"
    assert edit(runner, change=PlanChange(cron="@weekly")).plan.catch_up == "all"


# -- limits ----------------------------------------------------------------------------------------------------


def limited(runner: ByTurns, **limits: float) -> Schedule:
    return add(runner, plan=replace(NIGHTLY, cron="0 */6 * * *", limits=FiringLimits(**limits)))  # type: ignore[arg-type]


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_firing_of_more_pictures_than_its_limit_does_not_happen(runner: ByTurns, clock: Clock, pictures: int) -> None:
    schedule = limited(runner, pictures=pictures)
    clock.moment = TWO_AT_NIGHT + 4 * 3600
    runner.run_once()
    told = [(one.outcome, one.note) for one in runner.schedules.history(schedule, limit=1)]
    assert told == (
        [(FiringOutcome.FIRED, None)]
        if pictures == 2
        else [(FiringOutcome.SKIPPED, "more pictures than its limit of 1 for one firing")]
    )


def test_the_pictures_of_a_day_are_counted_in_its_zone(runner: ByTurns, clock: Clock, farm: Jobs) -> None:
    schedule = limited(runner, pictures_per_day=5)
    for hours in (4, 10, 16, 22, 28):  # six, twelve, eighteen, midnight, six
        clock.moment = TWO_AT_NIGHT + hours * 3600
        runner.run_once()
    assert outcomes(runner, schedule)[-5:] == [
        *(FiringOutcome.FIRED, FiringOutcome.FIRED, FiringOutcome.SKIPPED),
        *(FiringOutcome.FIRED, FiringOutcome.FIRED),
    ]
    skipped = runner.schedules.history(schedule)[2]
    assert skipped.note == "2 pictures after 4 of that day are more than its limit of 5 a day"
    finish(farm, 8)


def test_device_minutes_are_limited_by_the_measured_pace_and_not_where_it_is_unknown(
    runner: ByTurns, clock: Clock, farm: Jobs
) -> None:
    schedule = limited(runner, device_minutes=0.001, device_minutes_per_day=0.5)
    clock.moment = TWO_AT_NIGHT + 4 * 3600
    runner.run_once()
    [first] = runner.schedules.history(schedule, limit=1)
    assert first.outcome is FiringOutcome.FIRED
    assert "device minutes are unknown, so their limit was not checked" in str(first.note)
    finish(farm, 2)  # from now on there is a pace
    clock.moment += 6 * 3600
    runner.run_once()
    [second] = runner.schedules.history(schedule, limit=1)
    assert second.outcome is FiringOutcome.SKIPPED
    assert "device minutes are more than its limit of 0.001 for one firing" in str(second.note)


# -- looked into -----------------------------------------------------------------------------------------------


def test_everything_about_a_schedule_is_shown(runner: ByTurns, clock: Clock, database: Database) -> None:
    add(runner, order=Order(prompts=("a", "b", "c", "d"), defaults={"width": 64}))
    paces = Paces(REGISTRY, Measures(database))
    shown = details(runner.schedules, again(runner), paces)
    assert shown.order is not None
    assert (shown.order.prompts, shown.order.fields) == (["a", "b", "c"], {"width": 64})
    assert (shown.order.models, shown.order.device_seconds) == (["tiny"], None)
    assert (len(shown.next_times), shown.why, shown.history) == (5, None, [])
    runner.schedules.pause(again(runner))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    shown = details(runner.schedules, again(runner), paces)
    assert shown.next_times == []
    assert shown.why == "it is paused; `farm schedule resume nightly` resumes it"
    runner.schedules.resume(again(runner))
    shown = details(runner.schedules, again(runner), paces)
    assert shown.why == "that of 2026-01-02 02:00 CET was skipped: the schedule was paused"


def test_one_whose_order_cannot_be_read_is_shown_all_the_same(runner: ByTurns, database: Database) -> None:
    add(runner)
    with database.write() as connection:
        connection.execute(schedules_table.update().values(order="{}"))
    shown = details(runner.schedules, again(runner), Paces(REGISTRY, Measures(database)))
    assert shown.order is None
    assert "added by another version" in shown.remarks[0]
