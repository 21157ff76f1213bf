import pytest

from scheduler.intake.tickets import missing


@pytest.mark.parametrize(
    ("waiting", "batch", "queued", "most", "published"),
    [
        (0, 8, 0, 85, 0),
        (1, 8, 0, 85, 1),
        (8, 8, 0, 85, 1),
        (9, 8, 0, 85, 2),
        (9, 8, 1, 85, 1),
        (9, 8, 2, 85, 0),
        (9, 8, 50, 85, 0),
        (0, 8, 3, 85, 0),
        (1_000_000, 8, 0, 85, 85),
        (1_000_000, 8, 80, 85, 5),
        (1_000_000, 8, 85, 85, 0),
        (1_000_000, 8, 100, 85, 0),
        (3, 1, 1, 85, 2),
        (3, 1, 0, 1, 1),
    ],
)
def test_there_is_a_ticket_for_every_waiting_batch_and_never_more_than_the_share(
    waiting: int, batch: int, queued: int, most: int, published: int
) -> None:
    assert missing(waiting=waiting, batch=batch, queued=queued, most=most) == published
