"""Limits hold whoever submits at the same moment, and cost the same however much a key has made before."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from scheduler.intake.admission import Submitter, Terms, check_number
from scheduler.intake.manifests import manifest
from scheduler.intake.order import Order
from scheduler.intake.requests import MOST_PICTURES
from scheduler.intake.submit import Intake, submit_order
from storage.access.keys import Keys, Limits, Role
from storage.access.quotas import Quotas, accept_alone, unfinished_of
from storage.database.connection import CONNECTIONS, Database, database_now
from storage.database.key_tables import key_usage
from storage.database.tables import jobs, renders
from storage.errors import BadSpecification, NotPermitted, QuotaExceeded
from storage.jobs.jobs import Jobs
from storage.jobs.staging import CHUNK
from storage.jobs.submission import Accept, accept_stream
from storage.jobs.values import NewJob, Submission
from storage.objects.folder import LocalObjects
from storage.renders.views import Views
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from tests.contract.renders import at_once, claim, complete, pictures, rows
from tests.contract.schedules import REGISTRY

Ask = Callable[..., str]

QUANTA = {"tiny": 8}


@pytest.fixture
def ask(farm: Jobs, database: Database, tmp_path: Path) -> Ask:
    """Submit an order as every door does; its render, or "refused"."""
    intake = Intake(
        jobs=farm,
        views=Views(database),
        quotas=Quotas(database),
        registry=REGISTRY,
        objects=LocalObjects(tmp_path / "objects"),
        tickets=None,
    )

    def asked(n: int = 1, name: str | None = None, rows: Path | None = None, **limits: int) -> str:
        submitter = Submitter(owner="ann", key_id="a key", limits=Limits(**limits))
        order = Order(prompts=("a kitten",), pictures_each=n) if rows is None else Order(manifest=manifest(rows))
        terms = Terms(idempotency_key=name, request_hash="a" * 64 if name else None)
        try:
            return submit_order(intake, submitter, order, terms).render_id
        except QuotaExceeded:
            return "refused"

    return asked


@pytest.mark.parametrize("limit", ["queued", "per_day", "per_minute"])
def test_of_twenty_requests_at_once_as_many_are_accepted_as_the_limit_allows(ask: Ask, limit: str) -> None:
    found = at_once(*[lambda: ask(**{limit: 5})] * 20)
    assert found.count("refused") == 15


def test_manifests_that_are_read_at_once_keep_to_the_limit(ask: Ask) -> None:
    found = at_once(*[lambda: ask(CHUNK, queued=2 * CHUNK + 1)] * 4)
    assert found.count("refused") == 2


def test_a_request_that_is_repeated_is_not_counted_again(ask: Ask) -> None:
    assert len(set(at_once(*[lambda: ask(3, name="order 7", queued=4, per_day=4, per_minute=1)] * 6))) == 1
    assert ask(2, queued=4) == "refused"


def test_what_is_finished_makes_room_and_counts_for_the_day_even_when_it_is_purged(
    ask: Ask, farm: Jobs, database: Database
) -> None:
    render_id = ask(3, queued=3, per_day=5)
    assert ask(1, queued=3, per_day=5) == "refused"
    complete(farm, claim(farm, limit=3))
    with database.write() as connection:
        connection.execute(delete(jobs))
        connection.execute(delete(renders).where(renders.c.id == render_id))
    assert ask(2, queued=3, per_day=5) != "refused"
    assert ask(1, queued=3, per_day=5) == "refused"
    with database.write() as connection:
        connection.execute(update(key_usage).values(minute=key_usage.c.minute - 24 * 60 - 1))
    assert ask(1, queued=3, per_day=5) != "refused"
    with database.read() as connection:
        kept = connection.execute(select(key_usage.c.pictures)).scalars().all()
    assert kept == [1], "what is older than a day is forgotten"


def failed_of_a_key(farm: Jobs, database: Database, n: int, limits: Limits) -> tuple[str, Submission]:
    """A render of a key that has failed, and on what terms more of the key's are submitted."""
    key, _ = Keys(database).create(name="a", owner="ann", role=Role.SUBMIT, limits=limits)
    terms = Submission(owner="ann", priority=Priority.NORMAL, key_id=key.id, limits=limits)
    render_id = farm.submit(pictures(n), terms, quanta=QUANTA)
    farm.recover(claim(farm, limit=n).jobs, Fault.BAD_SPECIFICATION, "cannot be drawn")
    return render_id, terms


def test_what_failed_is_queued_again_only_where_the_limit_leaves_room(farm: Jobs, database: Database) -> None:
    render_id, terms = failed_of_a_key(farm, database, 3, Limits(queued=4, per_minute=2))
    farm.submit(pictures(2), terms, quanta=QUANTA)
    with pytest.raises(QuotaExceeded, match="this key may have 4 unfinished pictures and has 2") as refused:
        farm.retry(render_id, quanta=QUANTA)
    assert refused.value.retry_seconds == 30
    assert {row.state for row in rows(database, render_id)} == {State.FAILED}
    complete(farm, claim(farm, limit=1))
    # A retry is no request and no picture of the day.
    assert farm.retry(render_id, quanta=QUANTA) == 3


def test_of_retries_and_requests_at_the_same_moment_as_many_pass_as_the_limit_allows(
    farm: Jobs, database: Database
) -> None:
    limits = Limits(queued=5)
    first, terms = failed_of_a_key(farm, database, 5, limits)
    second = farm.submit(pictures(5), terms, quanta=QUANTA)
    farm.recover(claim(farm, limit=5).jobs, Fault.BAD_SPECIFICATION, "cannot be drawn")

    def passed(action: Callable[[], object]) -> bool:
        try:
            action()
        except QuotaExceeded:
            return False
        return True

    actions: list[Callable[[], object]] = [partial(farm.submit, pictures(5), terms, quanta=QUANTA)] * 2
    actions += [partial(farm.retry, render_id, quanta=QUANTA) for render_id in (first, second)]
    assert at_once(*[partial(passed, action) for action in actions]).count(True) == 1


def test_what_failed_of_no_key_or_of_one_without_this_limit_is_queued_again(farm: Jobs, database: Database) -> None:
    render_id, _ = failed_of_a_key(farm, database, 3, Limits(per_day=3, per_minute=1))
    assert farm.retry(render_id, quanta=QUANTA) == 3


def test_what_can_never_fit_is_said_so(ask: Ask) -> None:
    with pytest.raises(NotPermitted):
        ask(3, queued=2)


def test_pictures_are_read_no_further_than_limits_go(ask: Ask, tmp_path: Path) -> None:
    # The row that is wrong is never reached.
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n' * 6 + '{"prompt": 7}\n')
    with pytest.raises(NotPermitted, match="more pictures than this key's limit of 5 unfinished pictures"):
        ask(rows=tmp_path / "prompts.jsonl", queued=5)
    ask(4, queued=5)
    ask(1, queued=5)
    # Where there is room for none, not even the first is.
    (tmp_path / "wrong.jsonl").write_text('{"prompt": 7}\n')
    assert ask(rows=tmp_path / "wrong.jsonl", queued=5) == "refused"
    with pytest.raises(BadSpecification):
        ask(rows=tmp_path / "wrong.jsonl", queued=6)


def test_a_render_has_no_more_pictures_than_a_farm_could_make() -> None:
    with pytest.raises(BadSpecification, match="more than 10,000,000 pictures in one render; split it"):
        check_number(MOST_PICTURES + 1, Limits())


def test_admission_reads_nothing_of_what_a_key_has_finished(database: Database) -> None:
    made = {"owner": "ann", "priority": 1, "total": 1, "done": 1, "created_at": database_now(), "key_id": "a key"}
    with database.write() as connection:
        rows = [{"id": f"r{number}", "finished": None if number == 7 else 1.0} for number in range(3000)]
        for row in rows:
            row["finished_at"] = row.pop("finished")
        connection.execute(insert(renders).values(made), rows)
        connection.execute(text("ANALYZE"))
        explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        statement = unfinished_of("a key").compile(connection, compile_kwargs={"literal_binds": True})
        plan = str(connection.execute(text(explain + str(statement))).all())
    assert "ix_renders_unfinished" in plan


def test_requests_of_a_limited_key_that_wait_for_one_another_leave_connections_to_others(
    farm: Jobs, database: Database, ask: Ask
) -> None:
    def submit_of_others() -> str:
        return farm.submit(pictures(1), Submission(owner="bob", priority=Priority.NORMAL, watched=False), quanta=QUANTA)

    accepting = threading.Event()

    def slowly(connection: Connection, accept: Accept) -> str:
        accept_alone(connection, "a key", submission.limits)
        accepting.set()
        assert go_on.wait(120)
        return accept()

    go_on, one = threading.Event(), [NewJob(spec=spec) for spec in pictures(1)]
    submission = Submission(
        owner="ann", priority=Priority.NORMAL, watched=False, key_id="a key", limits=Limits(queued=1000)
    )
    with ThreadPoolExecutor(2 * CONNECTIONS + 1) as threads:
        first = threads.submit(accept_stream, database, one, submission, QUANTA, within=slowly)
        try:
            assert accepting.wait(120)
            others = [threads.submit(ask, queued=1000) for _ in range(2 * CONNECTIONS)]
            with database.read() as connection:
                assert connection.execute(select(renders.c.id)).all() == []
            if connection.dialect.name == "postgresql":
                assert submit_of_others()
            assert not any(one.done() for one in others)
        finally:
            go_on.set()
        assert len({one.result() for one in (first, *others)}) == 2 * CONNECTIONS + 1
