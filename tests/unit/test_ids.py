"""What renders, jobs and batches are called."""

import pytest

from storage.rules.ids import batch_id, job_id, parse_job_id, random_id


@pytest.mark.parametrize("index", [0, 12, 999_999, 1_000_000])
def test_the_id_of_a_job_names_its_render_and_index(index: int) -> None:
    assert parse_job_id(job_id("k7m2p9x4tq8z", index)) == ("k7m2p9x4tq8z", index)


def test_the_ids_of_a_renders_jobs_sort_as_their_indexes() -> None:
    assert job_id("r", 12) == "r-000012"
    assert sorted(job_id("r", index) for index in (100, 2, 30)) == ["r-000002", "r-000030", "r-000100"]


@pytest.mark.parametrize("text", ["", "k7m2p9x4tq8z", "k7m2-", "-000001", "k7-1e3", "K7-000001", "a-1-2", "a-1 "])
def test_what_is_no_id_of_a_job_is_not_read_as_one(text: str) -> None:
    assert parse_job_id(text) is None


def test_the_id_of_a_batch_is_another_one_after_each_claim() -> None:
    assert batch_id(7, 1) == "7.1"
    assert len({batch_id(7, 1), batch_id(7, 2), batch_id(71, 1)}) == 3


def test_random_ids_are_twelve_characters_that_read_as_nothing_else() -> None:
    made = {random_id() for _ in range(200)}
    assert len(made) == 200
    assert all(len(one) == 12 and not set(one) & set("ilou") and parse_job_id(job_id(one, 3)) for one in made)
