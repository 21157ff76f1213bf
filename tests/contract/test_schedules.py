"""Firings: once each, whole or not at all, whoever else fires; what was missed; pauses."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from scheduler.cron.changes import resume_schedule
from scheduler.intake.manifests import manifest
from scheduler.intake.moments import in_zone
from scheduler.intake.order import Order
from scheduler.intake.templates import Templates
from storage.access.keys import Limits, Role
from storage.database.connection import Database
from storage.database.schedule_tables import firings, schedules
from storage.database.tables import renders
from storage.errors import BadSpecification, InvalidInput, NotFound, ObjectStoreProblem
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome
from storage.renders.views import Views
from storage.settings import Settings
from storage.spec.registry import parse_registry
from tests.contract.renders import at_once, complete
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add, finish, lapse, outcomes, runner_over


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


# -- firing ----------------------------------------------------------------------------------------------------


def test_a_schedule_fires_at_its_time_and_not_before(runner: ByTurns, clock: Clock, database: Database) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT - 10
    assert runner.run_once() == pytest.approx(10)
    assert outcomes(runner, schedule) == []

    clock.moment = TWO_AT_NIGHT + 1
    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.planned_at) == (FiringOutcome.FIRED, TWO_AT_NIGHT)
    render = Views(database).render(str(firing.render_id))
    assert (render.owner, render.total, render.state) == ("ann", 2, "waiting")
    assert in_zone(firing.planned_at, "Europe/Paris") == "2026-01-02 02:00 CET"


def test_two_beats_at_once_fire_once(farm: Jobs, database: Database, objects: ObjectStore, clock: Clock) -> None:
    beats = [runner_over(farm, Database(database.url), objects, clock) for _ in range(4)]
    schedule = add(beats[0])
    clock.moment = TWO_AT_NIGHT + 1

    at_once(*[beat.run_once for beat in beats])

    assert outcomes(beats[0], schedule) == [FiringOutcome.FIRED]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(renders)).scalar_one() == 1
    for beat in beats:
        beat.schedules.database.close()


def test_a_clock_that_steps_back_and_forth_fires_nothing_twice(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner)
    for moment in (1, -3600, 1, 30, -86_400, 59):
        clock.moment = TWO_AT_NIGHT + moment
        runner.run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.FIRED]


@pytest.mark.parametrize(
    ("seeds", "alike"),
    [("fresh", False), ("same", True)],
)
def test_seeds_are_fresh_or_the_same_and_recorded(
    runner: ByTurns, clock: Clock, database: Database, seeds: str, *, alike: bool
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, seeds=seeds))
    for night in range(2):
        clock.moment = TWO_AT_NIGHT + night * 86_400
        runner.run_once()
    fired = [str(firing.render_id) for firing in runner.schedules.history(schedule)]
    first, second = [[job.spec.seed for job in Views(database).jobs(render_id)] for render_id in fired]
    assert (first == second) == alike


def test_files_and_templates_are_kept_with_the_schedule(
    runner: ByTurns, clock: Clock, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,steps,topic,custom_id\na star,3,stars,x\n")
    order = Order(
        prompts=("a kitten",),
        manifest=manifest(file),
        templates=Templates(texts=("{red|blue} paint",)),
        defaults={"width": 64},
        combined={"guidance": [2.0, 3.0]},
    )
    schedule = add(runner, order=order)
    file.unlink()
    clock.moment = TWO_AT_NIGHT

    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    found = list(Views(database).jobs(str(firing.render_id)))
    asked = [(job.spec.prompt, job.spec.num_inference_steps, job.spec.guidance_scale) for job in found]
    assert asked == [
        *[("a kitten", 30, 2.0), ("a kitten", 30, 3.0), ("a star", 3, 2.0), ("a star", 3, 3.0)],
        *[("red paint", 30, 2.0), ("red paint", 30, 3.0), ("blue paint", 30, 2.0), ("blue paint", 30, 3.0)],
    ]
    assert [job.custom_id for job in found[2:4]] == ["x-0", "x-1"]
    assert found[2].labels == {"topic": "stars"}
    assert {job.spec.width for job in found} == {64}


def test_numbers_of_pictures_in_a_file_are_kept_with_the_schedule(
    runner: ByTurns, clock: Clock, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("--prompt a --n_iter 2 --seed 5 --custom_id x\n--prompt b\n")
    schedule = add(runner, order=Order(manifest=manifest(file)))
    clock.moment = TWO_AT_NIGHT

    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    found = [(job.spec.prompt, job.custom_id) for job in Views(database).jobs(str(firing.render_id))]
    assert found == [("a", "x-0"), ("a", "x-1"), ("b", None)]
    assert [job.spec.seed for job in Views(database).jobs(str(firing.render_id))][:2] == [5, 6]
    with pytest.raises(BadSpecification, match="line 1: a row that says how many pictures"):
        add(runner, order=Order(manifest=manifest(file), pictures_each=2))


def test_what_cannot_be_rendered_any_more_is_noted_and_not_tried_again(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, order=Order(prompts=("a kitten",), defaults={"model": "tiny"}))
    others = parse_registry('[models.other]\nkind = "simulated"', where="here")
    elsewhere = replace(runner, intake=replace(runner.intake, registry=others))
    clock.moment = TWO_AT_NIGHT

    elsewhere.run_once()
    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    assert firing.outcome == FiringOutcome.FAILED
    assert "'tiny'" in str(firing.note)


def test_a_schedule_of_a_key_that_is_revoked_or_used_up_fires_no_more(
    runner: ByTurns, clock: Clock, farm: Jobs
) -> None:
    key, _ = runner.keys.create(name="app", owner="ann", role=Role.SUBMIT, limits=Limits(queued=3))
    schedule = add(runner, key_id=key.id)
    for night in range(4):
        clock.moment = TWO_AT_NIGHT + night * 86_400
        if night == 2:
            finish(farm, 2)
        if night == 3:
            runner.keys.revoke(key.id)
        runner.run_once()
    assert outcomes(runner, schedule) == [
        FiringOutcome.FIRED,
        FiringOutcome.FAILED,
        FiringOutcome.FIRED,
        FiringOutcome.FAILED,
    ]
    notes = [
        str(firing.note) for firing in runner.schedules.history(schedule) if firing.outcome is FiringOutcome.FAILED
    ]
    assert "revoked" in notes[0]
    assert "may have 3 unfinished pictures" in notes[1]


# -- overlap, missed times, pauses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "expected", "first"),
    [
        ("skip", [FiringOutcome.FIRED, FiringOutcome.SKIPPED, FiringOutcome.FIRED], "done"),
        ("queue", [FiringOutcome.FIRED, FiringOutcome.FIRED, FiringOutcome.FIRED], "done"),
        ("cancel", [FiringOutcome.FIRED, FiringOutcome.FIRED, FiringOutcome.FIRED], "cancelled"),
    ],
)
def test_a_render_that_is_not_finished_when_the_next_is_due_follows_its_rule(
    runner: ByTurns,
    clock: Clock,
    farm: Jobs,
    overlap: str,
    expected: list[FiringOutcome],
    first: str,
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, overlap=overlap))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    clock.moment += 86_400
    runner.run_once()
    while found := farm.claim(model="tiny", worker="w1", limit=8):
        complete(farm, found)
    clock.moment += 86_400
    runner.run_once()

    assert outcomes(runner, schedule) == expected
    history = runner.schedules.history(schedule)
    assert history[-1].render_state == first
    if overlap == "skip":
        assert history[1].note == f"render {history[2].render_id} was not finished"


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [FiringOutcome.MISSED] * 3),
        ("last", [FiringOutcome.MISSED, FiringOutcome.MISSED, FiringOutcome.FIRED]),
        ("all", [FiringOutcome.FIRED] * 3),
    ],
)
def test_times_missed_while_everything_was_down_follow_their_rule(
    runner: ByTurns, clock: Clock, catch_up: str, expected: list[FiringOutcome]
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up=catch_up))
    clock.moment = TWO_AT_NIGHT + 2 * 86_400 + 3600
    runner.run_once()
    runner.run_once()
    assert outcomes(runner, schedule) == expected


def test_a_paused_schedule_fires_nothing_and_goes_on_from_when_it_is_resumed(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up="all"))
    runner.schedules.pause(schedule)
    clock.moment = TWO_AT_NIGHT + 86_400
    runner.run_once()
    told = [(one.outcome, one.note) for one in runner.schedules.history(schedule)]
    assert told == [(FiringOutcome.SKIPPED, "the schedule was paused")] * 2

    runner.schedules.resume(schedule)  # by the database's clock, which is past all that
    runner.run_once()

    assert len(outcomes(runner, schedule)) == 2
    clock.moment = runner.schedules.now() + 86_400
    runner.run_once()
    assert outcomes(runner, schedule)[2:] == [FiringOutcome.FIRED]


def test_what_went_by_while_it_was_paused_and_nobody_looked_is_noted_when_it_is_resumed(runner: ByTurns) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, cron="0 0 1 1 *"), since=runner.schedules.now() - 800 * 86_400)
    runner.schedules.pause(schedule)
    for _ in range(2):
        resume_schedule(runner.schedules, runner.schedules.get("nightly", owner="ann"))
    assert outcomes(runner, schedule) == [FiringOutcome.SKIPPED] * 2
    assert not runner.schedules.get("nightly", owner="ann").paused


def test_firing_by_hand_leaves_the_plan_alone(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT - 100.5
    assert runner.fire_by_hand(schedule) is not None
    runner.schedules.pause(schedule)
    clock.moment += 1
    assert runner.fire_by_hand(schedule) is not None
    assert [firing.note for firing in runner.schedules.history(schedule)] == ["by hand", "by hand"]


def test_firing_by_hand_while_the_clock_stands_still_decides_nothing_that_was_planned(
    runner: ByTurns, clock: Clock
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up="last"))
    clock.moment = TWO_AT_NIGHT + 5 * 3600
    assert runner.fire_by_hand(schedule) is not None
    runner.run_once()
    made_up_for, by_hand = reversed(runner.schedules.history(schedule))
    assert (made_up_for.planned_at, made_up_for.outcome, made_up_for.note) == (TWO_AT_NIGHT, FiringOutcome.FIRED, None)
    assert by_hand.note == "by hand"


def test_a_schedule_whose_prompts_cannot_be_read_now_holds_up_no_other(
    runner: ByTurns, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = add(runner, name="a"), add(runner, name="b", order=Order(templates=Templates(texts=("a kitten",))))
    clock.moment = TWO_AT_NIGHT

    def away(*_: object) -> None:
        raise ObjectStoreProblem("objects are away")

    monkeypatch.setattr(runner.intake.objects, "copy", away)
    runner.run_once()
    assert [outcomes(runner, one) for one in (a, b)] == [[FiringOutcome.TAKEN], [FiringOutcome.FIRED]]
    assert [firing.note for firing in runner.schedules.history(a)] == ["objects are away"]

    monkeypatch.undo()
    # Long after, and still not missed: somebody was ticking when it came due.
    clock.moment += 3 * 3600
    lapse(runner)
    runner.run_once()
    assert outcomes(runner, a) == [FiringOutcome.FIRED]


def test_a_schedule_of_another_version_fails_and_holds_up_no_other(runner: ByTurns, clock: Clock) -> None:
    newer = runner.schedules.add(owner="ann", name="a", plan=NIGHTLY, order={"invented": "later"})
    with runner.schedules.database.write() as connection:
        connection.execute(schedules.update().values(decided_to=TWO_AT_NIGHT - 7200))
    today = add(runner, name="b")
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(newer)
    assert (firing.outcome, firing.note) == (
        FiringOutcome.FAILED,
        "the schedule was added by another version of the farm; remove it and add it again",
    )
    assert outcomes(runner, today) == [FiringOutcome.FIRED]


def test_a_schedule_that_is_removed_leaves_its_renders(runner: ByTurns, clock: Clock, database: Database) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)

    runner.schedules.remove(schedule)
    clock.moment += 86_400
    runner.run_once()

    with pytest.raises(NotFound, match="no schedule named 'nightly'"):
        runner.schedules.get("nightly", owner="ann")
    assert Views(database).render(str(firing.render_id)).total == 2
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(firings)).scalar_one() == 0


def test_names_are_unique_to_their_owner(runner: ByTurns) -> None:
    schedule = add(runner)
    with pytest.raises(InvalidInput, match="named 'nightly' already exists"):
        add(runner)
    bobs = runner.schedules.add(owner="bob", name="nightly", plan=NIGHTLY, order=schedule.order)
    assert [one.id for one in runner.schedules.all(owner="bob")] == [bobs.id]
    with pytest.raises(NotFound):
        runner.schedules.get("nightly", owner="eve")
