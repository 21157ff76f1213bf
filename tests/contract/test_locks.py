"""That what each contract test is checked for (`locks.py`) would be noticed."""

from storage.database.connection import Database
from storage.objects.store import ObjectStore
from tests.contract.locks import LOCKS


def test_a_store_that_is_asked_within_a_transaction_is_noticed(database: Database, objects: ObjectStore) -> None:
    with database.write():
        objects.exists("a")
        list(objects.list("b"))
    with database.read():
        objects.exists("c")
    objects.exists("d")
    met, LOCKS.met = LOCKS.met, []
    # A bucket's ask for more beside.
    assert {one.partition(",")[0].partition(".")[2] for one in met} >= {"exists", "list"}
    assert len([one for one in met if ".exists" in one.partition(",")[0]]) == 1
    assert __file__ in met[0]
