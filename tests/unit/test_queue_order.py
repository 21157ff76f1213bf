"""The order in which a worker asks the queues of its models."""

from worker.process.queue_order import STAY_SECONDS, LoadedModelFirst


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def strategy(clock: Clock, *queues: str) -> LoadedModelFirst:
    order = LoadedModelFirst(clock=clock)
    order.update(queues)
    return order


def test_before_anything_was_served_the_order_is_as_given() -> None:
    assert strategy(Clock(), "a", "b", "c").consume(3) == ["a", "b", "c"]


def test_the_model_served_last_is_asked_first_and_the_others_by_how_long_they_wait() -> None:
    order = strategy(Clock(), "a", "b", "c")
    for queue in ("a", "b", "c", "b"):
        order.rotate(queue)
    assert order.consume(3) == ["b", "a", "c"]


def test_after_its_time_the_loaded_model_lets_the_others_go_first_once() -> None:
    clock = Clock()
    order = strategy(clock, "a", "b")
    order.rotate("a")
    clock.now += STAY_SECONDS
    assert order.consume(2) == ["b", "a"]

    order.rotate("a")  # nothing was waiting for b
    assert order.consume(2) == ["a", "b"]


def test_serving_the_same_model_again_does_not_prolong_its_time() -> None:
    clock = Clock()
    order = strategy(clock, "a", "b")
    for _ in range(4):
        order.rotate("a")
        clock.now += STAY_SECONDS / 4
    assert order.consume(2) == ["b", "a"]


def test_a_queue_that_is_added_later_is_asked_too() -> None:
    order = strategy(Clock(), "a")
    order.rotate("a")
    order.update(["a", "b"])
    assert order.consume(2) == ["a", "b"]
    order.update(["b"])
    assert order.consume(1) == ["b"]


def test_kombu_makes_it_by_its_name() -> None:
    from kombu.utils.scheduling import cycle_by_name

    assert cycle_by_name("worker.process.queue_order:LoadedModelFirst") is LoadedModelFirst
