"""The schema's version, on both databases."""

import time
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from storage.access.keys import Limits
from storage.access.quotas import Quotas
from storage.database.connection import Database
from storage.database.partial_indexes import complete_metadata
from storage.database.schema import check, migrate, revisions, upgrade
from storage.errors import InvalidInput, SchemaMismatch
from storage.events.receivers import due_receivers
from storage.events.webhooks import Webhooks
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, ClaimedJob
from storage.renders.measures import Measures
from storage.renders.schedules import FiringLimits, Schedules
from storage.renders.views import Views
from tests.contract.renders import at_once, pictures, published, rendered, rows


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, complete_metadata()) == []


def test_the_migrations_make_the_same_indexes_and_constraints_as_the_tables(
    database: Database, empty_database: Database
) -> None:
    # What the comparison above leaves out: the conditions of partial indexes and of checks.
    metadata = complete_metadata()
    metadata.create_all(empty_database.engine)
    for table in metadata.tables:
        assert described(database, table) == described(empty_database, table)


def test_the_files_of_the_migrations_are_named_by_the_revisions_that_alembic_finds_in_them() -> None:
    config = Config()
    config.set_main_option("script_location", "storage/database/migrations")
    scripts = ScriptDirectory.from_config(config)
    assert revisions() == tuple(reversed([script.revision for script in scripts.walk_revisions()]))
    assert scripts.get_heads() == [revisions()[-1]]


def described(database: Database, table: str) -> dict[str, Any]:
    """All that the database says about a table, in an order of its own."""
    found = inspect(database.engine)
    return {
        # What a migration adds is the last column, wherever the code lists it.
        "columns": {column["name"]: {**column, "type": str(column["type"])} for column in found.get_columns(table)},
        "indexes": {index["name"]: _readable(index) for index in found.get_indexes(table)},
        "checks": sorted(map(str, found.get_check_constraints(table))),
        "uniques": sorted(map(str, found.get_unique_constraints(table))),
        "keys": [str(found.get_pk_constraint(table)), *map(str, found.get_foreign_keys(table))],
    }


def test_an_upgrade_tells_the_versions_before_and_after_and_may_be_repeated(empty_database: Database) -> None:
    before, after = upgrade(empty_database)
    assert before is None
    assert upgrade(empty_database) == (after, after)
    check(empty_database)


def test_an_upgrade_by_several_at_once_is_made_by_one(empty_database: Database) -> None:
    migrators = [Database(empty_database.url) for _ in range(4)]
    outcomes = at_once(*[partial(upgrade, migrator) for migrator in migrators])
    assert sorted(before or "" for before, _ in outcomes)[:2] == ["", outcomes[0][1]]
    check(empty_database)
    for migrator in migrators:
        migrator.close()


def test_an_upgrade_from_the_first_version_keeps_what_waits_and_what_runs(empty_database: Database) -> None:
    with empty_database.write() as connection:
        migrate(connection, "0001")
        connection.execute(
            text("INSERT INTO renders (id, owner, priority, total, created_at) VALUES ('r', 'ann', 1, 3, 0)")
        )
        for index, state in enumerate(("queued", "running", "done")):
            connection.execute(
                text(
                    'INSERT INTO jobs (render_id, "index", owner, model, priority, turn, batch_key, seed, spec, state, '
                    "fence, attempt, worker, lease_until) VALUES ('r', :index, 'ann', 'tiny', 1, 0, 'k', 7, :spec, "
                    ":state, :fence, :fence, 'w1', :lease)"
                ),
                {
                    "index": index,
                    "spec": pictures(1)[0].canonical(),
                    "state": state,
                    "fence": min(index, 1),
                    "lease": 2e10 if state == "running" else None,
                },
            )
        connection.execute(text("UPDATE renders SET done = 1"))
    assert upgrade(empty_database)[0] == "0001"
    farm = Jobs(empty_database)
    [waited] = farm.claim(model="tiny", worker="w2", limit=8).jobs  # type: ignore[union-attr]
    running = ClaimedJob(id=2, render_id="r", index=1, spec=waited.spec, fence=1, attempt=1)
    # The worker that was rendering meanwhile goes on as if nothing had happened.
    assert farm.renew([running]) == {2}
    claim = Claim(jobs=(running,), next_priority=None)
    assert farm.complete(rendered(claim), published(running)) == {}
    assert Views(empty_database).render("r").done == 2
    # Lists of renders of a model know those of before.
    assert Views(empty_database).render("r").models == ("tiny",)
    [usage] = Measures(empty_database).usage()
    assert (usage.owner, usage.renders, usage.pictures) == ("ann", 1, 2)
    assert usage.bytes == sum(row.bytes or 0 for row in rows(empty_database, "r"))


def test_an_upgrade_keeps_what_keys_have_used_up_today(empty_database: Database) -> None:
    with empty_database.write() as connection:
        migrate(connection, "0008")
        for id_, age in (("today", 7200), ("too", 7200), ("before", 90_000)):
            connection.execute(
                text(
                    "INSERT INTO renders (id, owner, priority, total, created_at, key_id) "
                    "VALUES (:id, 'ann', 1, 3, :at, 'a key')"
                ),
                {"id": id_, "at": time.time() - age},
            )
    upgrade(empty_database)
    assert Quotas(empty_database).used("a key", Limits(per_day=10)).accepted_last_day == 6


def test_an_upgrade_keeps_the_webhook_messages_that_wait(empty_database: Database) -> None:
    with empty_database.write() as connection:
        migrate(connection, "0010")
        for id_, state in (("waits", "pending"), ("arrived", "delivered")):
            connection.execute(
                text(
                    "INSERT INTO deliveries (id, render_id, owner, url, kind, body, state, attempt, next_at, "
                    "created_at) VALUES (:id, 'r', 'ann', 'https://hooks.example/x', 'job.done', '{}', :state, 1, 0, 0)"
                ),
                {"id": id_, "state": state},
            )
    upgrade(empty_database)
    assert [one.name for one in due_receivers(empty_database)] == ["ann hooks.example:443"]
    webhooks = Webhooks(empty_database)
    assert [one.id for one in webhooks.take_next(["ann hooks.example:443"])] == ["waits"]
    # One that had arrived is sent again.
    webhooks.replay("arrived")
    assert [one.id for one in webhooks.take_next(["ann hooks.example:443"])] == ["arrived"]


def test_an_upgrade_keeps_schedules_and_their_history(empty_database: Database) -> None:
    with empty_database.write() as connection:
        migrate(connection, "0014")
        connection.execute(
            text(
                'INSERT INTO schedules (id, owner, name, cron, timezone, "window", overlap, catch_up, seeds, '
                "\"order\", created_at, decided_to) VALUES ('s', 'ann', 'nightly', '0 2 * * *', 'Europe/Paris', "
                "'01:00-06:00', 'queue', 'none', 'fresh', '{}', 1, 2)"
            )
        )
        connection.execute(
            text("INSERT INTO firings (schedule_id, planned_at, at, outcome) VALUES ('s', 1, 1, 'fired')")
        )
    upgrade(empty_database)
    schedules = Schedules(empty_database)
    [kept] = schedules.all()
    assert (kept.plan.cron, kept.plan.at, kept.plan.window) == ("0 2 * * *", None, "01:00-06:00")
    assert (kept.plan.limits, kept.version, kept.paused, kept.ended) == (FiringLimits(), 0, False, False)
    assert [one.planned_at for one in schedules.history(kept)] == [1.0]
    with pytest.raises(InvalidInput, match="already exists"):
        schedules.add(owner="ann", name="nightly", plan=kept.plan, order={})


def test_a_database_without_tables_is_refused_with_the_remedy(empty_database: Database) -> None:
    with pytest.raises(SchemaMismatch, match="no tables yet.*`farm db upgrade`"):
        check(empty_database)


def test_a_database_of_a_newer_farm_is_refused_and_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (check, upgrade):
        with pytest.raises(SchemaMismatch, match="9999.*install the newer farm"):
            attempt(database)
    with database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def _readable(index: Any) -> dict[str, Any]:
    # A condition is an object that equals nothing but itself.
    return {**index, "dialect_options": {name: str(value) for name, value in index.get("dialect_options", {}).items()}}
