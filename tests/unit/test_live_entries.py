"""LoRAs that were added a moment ago are there, whoever looks at the registry's file first."""

from collections.abc import Mapping

from storage.errors import BadSettings
from storage.spec.models import Lora
from storage.spec.registry_watch import LiveEntries

INK, LATE = (Lora(alias=alias, source=f"a/{alias}") for alias in ("ink", "late"))


def test_one_that_was_added_a_moment_ago_is_found_in_the_file() -> None:
    looked: list[int] = []

    def again() -> Mapping[str, Lora]:
        looked.append(1)
        return {"ink": INK, "late": LATE}

    entries = LiveEntries(lambda: {"ink": INK}, again)
    assert entries["ink"] == INK
    assert not looked
    assert "late" in entries
    assert entries["late"] == LATE
    assert "never" not in entries


def test_while_the_file_is_wrong_those_before_it_count() -> None:
    def again() -> Mapping[str, Lora]:
        raise BadSettings("wrong")

    entries = LiveEntries(lambda: {"ink": INK}, again)
    assert entries.get("ink") == INK
    assert "late" not in entries
