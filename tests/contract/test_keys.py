"""API keys and what is used of their limits, on both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import delete, update

from storage.access.keys import Key, Keys, Limits, Role
from storage.access.noted_settings import NotedSettings
from storage.access.quotas import Quotas, QuotaUsage
from storage.database.connection import Database
from storage.database.key_tables import key_usage, keys
from storage.database.tables import renders
from storage.errors import BadSpecification, IdempotencyConflict, NotFound
from storage.jobs.jobs import Jobs
from storage.jobs.values import Idempotency, Submission
from storage.renders.views import Views
from storage.rules.states import Priority
from tests.contract.renders import at_once, claim, complete, pictures


@pytest.fixture
def ring(database: Database) -> Keys:
    return Keys(database)


def make(ring: Keys, *, owner: str = "ann", seconds: float | None = None, role: Role = Role.SUBMIT) -> tuple[Key, str]:
    return ring.create(name="a test", owner=owner, role=role, limits=Limits(queued=5), seconds=seconds)


def test_a_key_is_found_by_its_secret_and_only_by_it(ring: Keys, database: Database) -> None:
    key, secret = make(ring)
    assert ring.find(secret) == key
    assert (key.owner, key.role, key.limits) == ("ann", Role.SUBMIT, Limits(queued=5))
    for wrong in (
        "",
        "farm_",
        secret[:-1],
        secret[:-1] + ("a" if secret[-1] != "a" else "b"),
        secret + "a",
        "x" * 10_000,
    ):
        assert ring.find(wrong) is None
    with database.read() as connection:
        [row] = connection.execute(keys.select())
    assert secret.split("_", 2)[2] not in str(row)


def test_a_keys_webhook_is_kept_and_taken_away(ring: Keys) -> None:
    key, secret = make(ring)
    other, _ = make(ring, owner="bob")
    for _ in range(2):
        ring.set_webhook(key.id, "https://example.com/hook", ["job.done", "render.finished"])
    found = ring.find(secret)
    assert found == replace(key, webhook_url="https://example.com/hook", webhook_events=("job.done", "render.finished"))
    assert [one for one in ring.all() if one.id == other.id] == [other]
    ring.set_webhook(key.id, None)
    assert ring.find(secret) == key


def test_processes_note_what_they_were_started_with(database: Database) -> None:
    noted = NotedSettings(database)
    for value in ("false", "true", "true"):
        noted.note("api", "webhook_private", value)
    noted.note("scheduler", "webhook_private", "false")
    noted.note("scheduler", "another", "true")
    assert noted.others("scheduler", "webhook_private", "false") == {"api": "true"}
    assert noted.others("api", "webhook_private", "true") == {"scheduler": "false"}
    assert noted.others("api", "webhook_private", "false") == {}


def test_a_revoked_or_expired_key_is_not_found(ring: Keys, database: Database) -> None:
    assert not ring.any_made()
    revoked, secret = make(ring)
    ring.revoke(revoked.id)
    ring.revoke(revoked.id)
    assert ring.find(secret) is None
    expiring, brief = make(ring, seconds=100)
    assert ring.find(brief) == expiring
    with database.write() as connection:
        connection.execute(update(keys).where(keys.c.id == expiring.id).values(expires_at=keys.c.created_at))
    assert ring.find(brief) is None
    assert ring.any_made()
    assert [key.id for key in ring.all()] == [revoked.id, expiring.id]
    with pytest.raises(NotFound, match="no key with id 'nobody'"):
        ring.revoke("nobody")


def test_a_farm_whose_keys_are_deleted_from_its_table_is_one_that_had_keys(ring: Keys, database: Database) -> None:
    for _ in range(2):
        make(ring)
    with database.write() as connection:
        connection.execute(delete(keys))
    assert ring.all() == []
    assert ring.any_made()


@pytest.mark.parametrize(("name", "owner"), [("", "ann"), ("x" * 101, "ann"), ("a", ""), ("a", "two words")])
def test_a_key_has_a_name_and_an_owner(ring: Keys, name: str, owner: str) -> None:
    with pytest.raises(BadSpecification):
        ring.create(name=name, owner=owner, role=Role.READ, limits=Limits())


def test_each_role_may_what_those_before_it_may() -> None:
    assert [[role.covers(needed) for needed in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# -- limits ----------------------------------------------------------------------------------------------------


def submission(owner: str = "ann", *, key_id: str | None = None, once: Idempotency | None = None) -> Submission:
    return Submission(owner=owner, priority=Priority.NORMAL, key_id=key_id, once=once)


ALL = Limits(queued=100, per_day=100, per_minute=100)


def test_what_is_used_of_a_key_is_counted(farm: Jobs, database: Database) -> None:
    for key_id, n in (("a", 3), ("a", 2), ("b", 7)):
        farm.submit(pictures(n), replace(submission(key_id=key_id), limits=ALL), quanta={"tiny": 8})
    complete(farm, claim(farm, limit=3))
    quotas = Quotas(database)
    assert quotas.used("a", ALL) == QuotaUsage(unfinished=2, accepted_last_day=5, requests_last_minute=2)
    with database.write() as connection:
        connection.execute(update(renders).values(created_at=renders.c.created_at - 100))
    assert quotas.used("a", ALL).requests_last_minute == 0
    with database.write() as connection:
        connection.execute(update(key_usage).values(minute=key_usage.c.minute - 24 * 60 - 1))
    assert quotas.used("a", ALL) == QuotaUsage(unfinished=2, accepted_last_day=0, requests_last_minute=0)
    assert quotas.used("c", ALL) == QuotaUsage(unfinished=0, accepted_last_day=0, requests_last_minute=0)


# -- the same request twice ------------------------------------------------------------------------------------


def test_the_same_request_is_accepted_once_also_from_many_at_once(farm: Jobs, database: Database) -> None:
    once = Idempotency(name="order 7", request_hash="a" * 64)

    def ask() -> str:
        return farm.submit(pictures(3), submission(once=once), quanta={"tiny": 8})

    assert len(set(at_once(*[ask] * 12))) == 1
    assert ask() == ask()
    [render] = Views(database).renders()
    assert render.total == 3


def test_another_request_under_the_same_name_is_refused_and_another_owner_may_use_it(farm: Jobs) -> None:
    first = farm.submit(pictures(1), submission(once=Idempotency(name="7", request_hash="a" * 64)), quanta={"tiny": 8})
    with pytest.raises(IdempotencyConflict, match=f"render {first}"):
        farm.submit(pictures(2), submission(once=Idempotency(name="7", request_hash="b" * 64)), quanta={"tiny": 8})
    other = farm.submit(
        pictures(1), submission("ben", once=Idempotency(name="7", request_hash="b" * 64)), quanta={"tiny": 8}
    )
    assert other != first


def test_a_request_that_was_refused_may_be_made_again(farm: Jobs, database: Database) -> None:
    once = Idempotency(name="7", request_hash="a" * 64)
    with pytest.raises(BadSpecification):
        farm.submit([], submission(once=once), quanta={"tiny": 8})
    farm.submit(pictures(1), submission(once=once), quanta={"tiny": 8})
    assert len(Views(database).renders()) == 1
