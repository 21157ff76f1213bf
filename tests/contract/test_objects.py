"""The object store, in a folder and on S3.

The S3 of most tests is moto's, which creates objects once as AWS does; what rests on keys and signatures is tested on
rclone's, which checks them.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from storage.errors import BadSettings, NotFound, ObjectStoreProblem, ObjectStoreRefused
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore, open_objects
from storage.settings import Settings
from tests.contract.renders import at_once
from tests.servers import free_port

CAT, DOG = b"a picture of a cat" * 1000, b"a picture of a dog"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- what every store does -------------------------------------------------------------------------------------


def test_an_object_comes_back_as_it_was_put(objects: ObjectStore) -> None:
    stored = objects.put("renders/k7m2/000000.png", CAT)
    assert (stored.key, stored.sha256, stored.bytes) == ("renders/k7m2/000000.png", sha256(CAT), len(CAT))
    assert objects.get("renders/k7m2/000000.png") == CAT


def test_a_file_is_stored_and_copied_back(objects: ObjectStore) -> None:
    with SpooledTemporaryFile() as file, TemporaryFile() as copy:
        file.write(CAT)
        first = objects.put("inputs/cat", file)
        file.write(b"more than that")
        objects.copy("inputs/cat", copy)
        copy.seek(0)

        assert (first.sha256, first.bytes) == (sha256(CAT), len(CAT))
        assert copy.read() == CAT
        assert objects.put("inputs/cat", file) == first
        with pytest.raises(NotFound, match="no object inputs/dog in "):
            objects.copy("inputs/dog", copy)


def test_an_objects_own_file_gets_another_name_where_there_is_a_file(objects: ObjectStore, tmp_path: Path) -> None:
    objects.put("inputs/cat", CAT)
    linked = objects.link("inputs/cat", tmp_path / "cat")
    assert linked == isinstance(objects, LocalObjects)
    if linked:
        objects.delete("inputs/cat")
        assert (tmp_path / "cat").read_bytes() == CAT
    assert not objects.link("inputs/dog", tmp_path / "dog")
    assert not (tmp_path / "dog").exists()


def test_a_name_that_is_taken_is_not_given_to_another_object(objects: ObjectStore, tmp_path: Path) -> None:
    objects.put("inputs/cat", CAT)
    (tmp_path / "dog").write_bytes(DOG)
    assert not objects.link("inputs/cat", tmp_path / "dog")
    assert (tmp_path / "dog").read_bytes() == DOG


def test_an_empty_object_is_one(objects: ObjectStore) -> None:
    assert objects.put("empty", b"").bytes == 0
    assert objects.get("empty") == b""
    assert objects.exists("empty")


def test_the_first_write_wins_and_the_second_adopts_it(objects: ObjectStore) -> None:
    first = objects.put("picture.png", CAT)
    assert objects.put("picture.png", DOG) == first
    assert objects.put("picture.png", CAT) == first
    assert objects.get("picture.png") == CAT


def test_of_writes_at_once_one_wins_and_all_report_it(objects: ObjectStore) -> None:
    pictures = [bytes([n]) * 1000 for n in range(8)]
    outcomes = at_once(*[partial(objects.put, "renders/k7m2/000000.png", picture) for picture in pictures])
    [winner] = {outcome.sha256 for outcome in outcomes}
    assert sha256(objects.get("renders/k7m2/000000.png")) == winner
    assert [*objects.list()] == ["renders/k7m2/000000.png"]


def test_a_missing_object_is_not_found(objects: ObjectStore) -> None:
    with pytest.raises(NotFound, match="no object renders/k7m2/000000.png in "):
        objects.get("renders/k7m2/000000.png")
    assert not objects.exists("renders/k7m2/000000.png")


def test_a_folder_is_no_object(objects: ObjectStore) -> None:
    objects.put("renders/k7m2/000000.png", CAT)
    assert not objects.exists("renders/k7m2")


def test_a_deleted_object_is_gone_and_may_be_deleted_again_and_put_anew(objects: ObjectStore) -> None:
    objects.put("a/1.png", CAT)
    objects.put("a/2.png", CAT)
    objects.delete("a/1.png")
    objects.delete("a/1.png")
    objects.delete("b/never.png")
    assert [*objects.list()] == ["a/2.png"]
    assert objects.put("a/1.png", DOG).sha256 == sha256(DOG)


def test_what_is_below_a_folder_is_deleted_and_nothing_beside_it(objects: ObjectStore) -> None:
    keys = ["renders/a/000000.png", "renders/a/b/1.png", "renders/a-b/0.png", "renders/ab/0.png"]
    for key in keys:
        objects.put(key, DOG)
    objects.delete_below("renders/a")
    objects.delete_below("renders/a")
    assert [*objects.list()] == keys[2:]


def test_keys_are_listed_in_order_by_their_beginning(objects: ObjectStore) -> None:
    keys = ["renders/a/000000.png", "renders/a/000001.png", "renders/a-b/0.png", "renders/ab/0.png", "probe"]
    for key in reversed(keys):
        objects.put(key, DOG)
    assert [*objects.list()] == sorted(keys)
    assert [*objects.list("renders/a/")] == keys[:2]
    assert [*objects.list("renders/a")] == sorted(keys[:4])
    assert [*objects.list("nothing/")] == []


NO_KEYS = [
    *["", "/a", "a/", "a//b", "../x", "a/../b", "a/..", ".", ".hidden", "a/.new-x"],
    *["a b", "ä", "a\\b", "a\n", "a\0", "%2e%2e/x", "C:x"],
]


@pytest.mark.parametrize("key", NO_KEYS, ids=ascii)
def test_what_is_no_key_of_ours_is_refused_by_every_method(objects: ObjectStore, key: str) -> None:
    methods: list[Callable[[str], object]] = [
        lambda key: objects.put(key, b""),
        objects.get,
        objects.exists,
        objects.delete,
        objects.delete_below,
        objects.presign,
    ]
    for method in methods:
        with pytest.raises(ValueError, match="not an object key"):
            method(key)


def test_a_picture_can_be_downloaded_from_its_address(objects: ObjectStore) -> None:
    objects.put("renders/k7m2/000000.png", CAT)
    with urlopen(objects.presign("renders/k7m2/000000.png")) as response:
        assert response.read() == CAT


def test_a_usable_store_passes_its_check_and_stays_empty(objects: ObjectStore) -> None:
    objects.check()
    assert [*objects.list()] == []


def test_a_pictures_key_is_given_by_its_render_and_index() -> None:
    assert picture_key("k7m2", 12) == "renders/k7m2/000012.png"
    assert picture_key("k7m2", 1_000_000) == "renders/k7m2/1000000.png"


# -- a folder --------------------------------------------------------------------------------------------------


def test_a_folder_holds_nothing_but_objects(local: Settings) -> None:
    objects = open_objects(local)
    at_once(*[partial(objects.put, "a/1.png", CAT)] * 8)
    files = [path for path in Path(local.objects).rglob("*") if path.is_file()]
    assert files == [Path(local.objects) / "a/1.png"]


def test_a_folder_may_be_named_as_an_address(tmp_path: Path) -> None:
    open_objects(Settings(objects_url=f"file://{tmp_path}/objects")).put("a", CAT)
    assert (tmp_path / "objects/a").read_bytes() == CAT


def test_a_folder_that_cannot_be_one_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    objects = open_objects(Settings(objects_url=str(tmp_path / "file")))
    refused: list[Callable[[], object]] = [objects.check, partial(objects.put, "a", CAT), partial(objects.get, "a")]
    for use in refused:
        with pytest.raises(ObjectStoreProblem, match="objects in .*file"):
            use()


# -- S3 --------------------------------------------------------------------------------------------------------


def test_two_prefixes_of_one_bucket_are_two_stores(s3: Settings) -> None:
    one = open_objects(s3)
    two = open_objects(s3.model_copy(update={"objects_url": f"{s3.objects_url}-two"}))
    one.put("a.png", CAT)
    assert [*two.list()] == []
    assert two.put("a.png", DOG).sha256 == sha256(DOG)
    assert [*one.list()] == [*two.list()] == ["a.png"]


def test_a_bucket_may_be_used_without_a_prefix(s3: Settings) -> None:
    bucket = str(s3.objects_url).removesuffix("/farm")
    objects = open_objects(s3.model_copy(update={"objects_url": bucket}))
    objects.put("renders/a.png", CAT)
    assert [*objects.list("renders/")] == ["renders/a.png"]


def test_an_address_lets_nobody_in_but_to_its_object(s3_with_signatures: Settings) -> None:
    objects = open_objects(s3_with_signatures)
    objects.put("a.png", CAT)
    objects.put("b.png", CAT)
    address = objects.presign("a.png", seconds=60)
    with urlopen(address) as response:
        assert response.read() == CAT
    for forged in (address.replace("a.png", "b.png"), address.partition("?")[0], address.replace("=60&", "=6000&")):
        with pytest.raises(HTTPError) as refusal:
            urlopen(forged)
        with refusal.value:
            assert refusal.value.code in (400, 403)


def uses(objects: ObjectStore) -> list[Callable[[], object]]:
    """Everything that can be asked of a store."""
    return [
        objects.check,
        partial(objects.put, "a.png", CAT),
        partial(objects.get, "a.png"),
        partial(objects.delete, "a.png"),
        lambda: [*objects.list()],
    ]


@pytest.mark.parametrize("store", ["s3", "s3_with_signatures"])
def test_a_missing_bucket_is_refused_with_the_remedy(store: str, request: pytest.FixtureRequest) -> None:
    settings: Settings = request.getfixturevalue(store)
    for use in uses(open_objects(settings.model_copy(update={"objects_url": "s3://no-such-bucket"}))):
        with pytest.raises(ObjectStoreRefused, match="no-such-bucket.*does not exist; create it or .*FARM_OBJECTS_URL"):
            use()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_with_the_remedy(
    name: str, s3_with_signatures: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "wrongandlongenough")
    objects = open_objects(s3_with_signatures)
    everything: list[Callable[[], object]] = [*uses(objects), partial(objects.exists, "a.png")]
    for use in everything:
        with pytest.raises(ObjectStoreRefused, match="denied.*AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") as refusal:
            use()
        assert "wrongandlongenough" not in str(refusal.value)


def test_missing_credentials_are_refused_with_the_remedy(
    s3_with_signatures: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ObjectStoreRefused, match="AWS_ACCESS_KEY_ID"):
        open_objects(s3_with_signatures).check()


def test_a_store_that_is_away_is_a_problem_not_a_refusal(s3: Settings) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    objects = open_objects(s3.model_copy(update={"s3_endpoint_url": endpoint}))
    with pytest.raises(ObjectStoreProblem, match=endpoint) as problem:
        objects.check()
    assert not isinstance(problem.value, ObjectStoreRefused)


def test_a_bucket_that_cannot_exist_is_refused_in_one_line(s3: Settings) -> None:
    objects = open_objects(s3.model_copy(update={"objects_url": "s3://no_bucket!"}))
    with pytest.raises(ObjectStoreRefused, match="(?i)bucket") as refusal:
        objects.check()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "ftp://host/folder", "http://minio:9000/bucket"])
def test_an_address_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match=f"^FARM_OBJECTS_URL={url}: "):
        open_objects(Settings(objects_url=url))


@pytest.mark.parametrize("endpoint", ["minio:9000", "nonsense", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(BadSettings, match="^FARM_S3_ENDPOINT_URL="):
        open_objects(Settings(objects_url="s3://bucket", s3_endpoint_url=endpoint))


# -- S3 that answers badly -------------------------------------------------------------------------------------


class _Script(BaseHTTPRequestHandler):
    """Answers with the next status of the script and no body; None drops the connection without an answer."""

    script: Iterator[tuple[int | None, dict[str, str]]]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        status, headers = next(self.script)
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def store_answering(*script: tuple[int | None, dict[str, str]]) -> Iterator[str]:
    """A store that gives these answers in turn; its address."""
    handler = type("Handler", (_Script,), {"script": iter(script)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


STORED = {"Content-Length": "18", "x-amz-meta-sha256": sha256(DOG)}


def test_a_put_whose_answer_was_lost_adopts_its_own_object(s3: Settings) -> None:
    with store_answering((None, {}), (412, {}), (200, STORED)) as endpoint:
        stored = open_objects(s3.model_copy(update={"s3_endpoint_url": endpoint})).put("a.png", DOG)
    assert (stored.sha256, stored.bytes) == (sha256(DOG), len(DOG))


def test_a_put_that_met_another_which_then_failed_may_be_tried_again(s3: Settings) -> None:
    # 409: somebody is creating this key right now; then it is not there after all.
    with (
        store_answering((409, {}), (404, {})) as endpoint,
        pytest.raises(ObjectStoreProblem, match="a.png") as problem,
    ):
        open_objects(s3.model_copy(update={"s3_endpoint_url": endpoint})).put("a.png", DOG)
    assert not isinstance(problem.value, ObjectStoreRefused)
