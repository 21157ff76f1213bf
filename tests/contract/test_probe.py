"""Probing a store, and what a probe that was killed has left there."""

import time
from types import SimpleNamespace

import pytest

from storage.errors import ObjectStoreOverwrites, ObjectStoreProblem
from storage.objects.probe import check_first_write_wins, remove_old_probes
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests.lying_store import Lie, lying_store


def leave_a_probe(objects: ObjectStore, *, hours_ago: float) -> None:
    """As if a process had probed then, and been killed before it deleted its object."""
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(objects, "delete", lambda _key: None)
        killed.setattr("storage.objects.probe.time", SimpleNamespace(time=lambda: time.time() - 3600 * hours_ago))
        check_first_write_wins(objects)


def test_a_probe_leaves_nothing(objects: ObjectStore) -> None:
    check_first_write_wins(objects)
    assert list(objects.list()) == []


def test_what_killed_probes_have_left_is_removed_a_day_after(objects: ObjectStore) -> None:
    objects.put("renders/probe/000000.png", b"a picture")
    objects.put("probe/k7m2k7m2k7m2", b"of an earlier version")
    leave_a_probe(objects, hours_ago=25)
    leave_a_probe(objects, hours_ago=23)
    assert len(list(objects.list("probe/"))) == 3
    assert remove_old_probes(objects) == 2
    assert len(list(objects.list("probe/"))) == 1
    assert objects.exists("renders/probe/000000.png")


def test_a_store_that_overwrites_is_found_and_left_as_it_was(s3_with_signatures: Settings) -> None:
    objects = open_objects(s3_with_signatures)
    with pytest.raises(ObjectStoreOverwrites):
        check_first_write_wins(objects)
    assert list(objects.list()) == []


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (Lie.REFUSES_AND_OVERWRITES, "the store ignores `If-None-Match: .`"),
        (Lie.ANOTHER_PAGE, "has other bytes when it is read"),
        (Lie.LOSES, "has other bytes when it is read"),
        (Lie.KEEPS_NOTHING, "is not there when it is read"),
        (Lie.KNOWS_NO_CONDITIONS, "knows no conditional writes .*NotImplemented.*deploy/README"),
    ],
)
def test_a_store_that_lies_is_found(s3: Settings, lie: Lie, said: str) -> None:
    with lying_store(lie) as url, pytest.raises(ObjectStoreOverwrites, match=said):
        check_first_write_wins(open_objects(s3.model_copy(update={"s3_endpoint_url": url})))


def test_an_error_within_a_yes_is_one_that_may_pass(s3: Settings) -> None:
    with lying_store(Lie.ERROR_IN_A_YES) as url, pytest.raises(ObjectStoreProblem, match="InternalError") as met:
        check_first_write_wins(open_objects(s3.model_copy(update={"s3_endpoint_url": url})))
    assert not isinstance(met.value, ObjectStoreOverwrites)


def test_a_store_that_does_not_lie_is_taken(s3: Settings) -> None:
    with lying_store(Lie.NONE) as url:
        check_first_write_wins(open_objects(s3.model_copy(update={"s3_endpoint_url": url})))
