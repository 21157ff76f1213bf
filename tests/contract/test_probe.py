"""Probing a store, and what a probe that was killed has left there."""

import time
from types import SimpleNamespace

import pytest

from storage.errors import ObjectStoreOverwrites
from storage.objects.probe import check_first_write_wins, remove_old_probes
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings


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
