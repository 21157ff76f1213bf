"""What the arms of rendering scenarios reckon with: batches, sizes, environments and pictures."""

import io
import json
import sys
from pathlib import Path

import pytest

from benchmarks.build_farm import Span
from benchmarks.peers.answering import answer_requests
from benchmarks.prompts import prompts
from benchmarks.scenarios.idle_device import idle
from benchmarks.scenarios.mixed_queue import Kind, as_they_come, seconds_of, shuffled, sorted_beforehand
from benchmarks.sizes import RoundSize
from benchmarks.slots_over_time import bars
from benchmarks.synthetic import photograph
from benchmarks.users import peer, users_environment


def test_what_is_idle_is_the_time_between_batches_that_no_pipeline_call_had() -> None:
    # Stored 0.3 s after their ends: calls from 0 to 1, 1.1 to 2.1, 2.2 to 3.2.
    found = idle([(1.3, 1.0), (2.4, 1.0), (3.5, 1.0)])
    assert found["idle_ms"] == pytest.approx(100)
    assert found["idle_percent"] == pytest.approx(100 * 0.2 / 2.2)
    assert idle([(1.0, 1.0), (2.0, 1.0)])["idle_percent"] == pytest.approx(0)


def test_an_arm_makes_as_many_pictures_as_its_share_allows_in_whole_batches() -> None:
    size = RoundSize(seconds=10, most=32, batch=8)
    assert size.pictures == 8
    size.follow(8, 4.0)
    assert size.pictures == 16
    size.follow(16, 0.1)
    assert size.pictures == 32
    # However slow: one batch.
    size.follow(32, 1000.0)
    assert size.pictures == 8


def test_a_queue_that_was_sorted_needs_fewer_batches_than_one_that_is_taken_as_it_comes() -> None:
    one, two = Kind("one", 64, 3), Kind("two", 64, 3)
    kinds = [one, two, two] * 5
    assert sorted_beforehand(kinds) == [(one, 5), (two, 8), (two, 2)]
    assert as_they_come(kinds) == [(one, 1), (two, 2)] * 5
    assert seconds_of(sorted_beforehand(kinds)) < seconds_of(as_they_come(kinds))
    assert sorted(shuffled(2, 0)) == sorted(shuffled(2, 1))
    assert shuffled(2, 0) == shuffled(2, 0) != shuffled(2, 1)


def test_a_peer_has_nothing_of_the_threads_and_settings_of_whoever_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "MKL_NUM_THREADS", "FARM_OWNER"):
        monkeypatch.setenv(name, "1")
    found = users_environment(FARM_HOME="here")
    assert {name: value for name, value in found.items() if name.startswith(("OMP", "GOMP", "MKL", "FARM"))} == {
        "FARM_HOME": "here"
    }
    assert found["PATH"]


def test_every_prompt_is_used_before_one_comes_again() -> None:
    assert len(set(prompts(20))) == 20
    assert prompts(41)[20] == prompts(41)[0] == prompts(41)[40]


def test_a_synthetic_photograph_has_grain_and_is_the_same_every_time() -> None:
    one, again, other = photograph(64), photograph(64), photograph(64, seed=1)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    buffer = io.BytesIO()
    photograph(256).save(buffer, "PNG")
    # As those of large models: 1.2 to 1.8 bytes a pixel.
    assert 1.2 < len(buffer.getvalue()) / 256**2 < 2.4


def test_answers_are_lines_and_what_libraries_print_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n": 1}\n{"n": 2}\n'))

    def answer(request: dict[str, int]) -> int:
        sys.stdout.write("a library has something to say\n")
        return request["n"] + 1

    answer_requests(answer)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [2, 3]


def test_a_peer_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    words = "ended: .*No module named benchmarks.peers.no_such_peer"
    with peer("benchmarks.peers.no_such_peer", tmp_path) as gone, pytest.raises(RuntimeError, match=words):
        gone.ask(n=1)


def test_a_picture_is_drawn_in_a_slot_that_is_free_and_slots_are_no_more_than_there_are() -> None:
    spans = [Span(begins=100.0, ends=103.0 + number, steps=10) for number in range(8)]
    spans += [Span(begins=103.5, ends=105.0, steps=20), Span(begins=103.75, ends=104.5, steps=30)]
    drawn = bars(list(reversed(spans)))
    assert [(bar.slot, bar.begins) for bar in drawn[:8]] == [(slot, 0.0) for slot in range(8)]
    # The tenth is told to have begun just before the second left.
    assert [(bar.slot, bar.begins, bar.ends, bar.steps) for bar in drawn[8:]] == [(0, 3.5, 5.0, 20), (1, 3.75, 4.5, 30)]
