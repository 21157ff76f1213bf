"""An export reads its pictures ahead: some of them, in their order, and those that were fetched not twice."""

from pathlib import Path

import pytest

from scheduler.export import gathering
from scheduler.export.gathering import Gathering
from storage.database.connection import Database
from storage.errors import ObjectStoreProblem
from storage.jobs.jobs import Jobs
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore, open_objects
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.datasets import render_of
from tests.servers import eventually

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def noted(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what is fetched from now on, or linked to."""
    keys: list[str] = []
    get, link = objects.get, objects.link

    def noting_get(key: str) -> bytes:
        keys.append(key)
        return get(key)

    def noting_link(key: str, to: Path) -> bool:
        linked = link(key, to)
        keys.extend([key] * linked)
        return linked

    monkeypatch.setattr(objects, "get", noting_get)
    monkeypatch.setattr(objects, "link", noting_link)
    return keys


def test_pictures_come_in_their_order_and_no_more_than_some_are_read_ahead(
    farm: Jobs, database: Database, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_id = render_of(farm, objects, 20)
    get = objects.get
    fetched = noted(objects, monkeypatch)
    monkeypatch.setattr(gathering, "_AHEAD", 4)
    jobs = [*Views(database).jobs(render_id)]
    wanted = [(job, tmp_path / f"{job.index}.png") for job in jobs]
    with Gathering(objects=objects, shown="here").of(wanted, lambda _: None) as pictures:
        assert next(pictures) == get(picture_key(render_id, 0))
        eventually(lambda: len(fetched) == 4, "the next ones are fetched")
        assert [*pictures] == [get(picture_key(render_id, index)) for index in range(1, 20)]
    assert sorted(fetched) == sorted(picture_key(render_id, index) for index in range(20))


def test_what_was_fetched_before_a_wrong_one_is_not_fetched_again(
    farm: Jobs, database: Database, s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_objects(s3)
    render_id = render_of(farm, objects, 6)
    key, wrong = picture_key(render_id, 4), b"other bytes"
    get = objects.get
    monkeypatch.setattr(objects, "get", lambda name: wrong if name == key else get(name))
    wanted = [(job, tmp_path / f"{job.index}.png") for job in Views(database).jobs(render_id)]

    def gathered() -> list[bytes]:
        with Gathering(objects=objects, shown="here").of(wanted, lambda _: None) as pictures:
            return [*pictures]

    with pytest.raises(ObjectStoreProblem, match="is damaged"):
        gathered()
    monkeypatch.setattr(objects, "get", get)
    fetched = noted(objects, monkeypatch)
    assert len(gathered()) == 6
    assert key in fetched
    assert not {picture_key(render_id, index) for index in range(4)} & {*fetched}
