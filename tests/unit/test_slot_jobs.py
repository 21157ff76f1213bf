"""Which jobs the next call of the model takes."""

from storage.rules.states import Priority
from tests.unit.slot_stage import job
from worker.serving.call_pace import CallPace
from worker.serving.slot_jobs import SlotJobs


def test_a_suspect_is_called_alone_whoever_is_in_hand() -> None:
    jobs = SlotJobs()
    jobs.add([job(number, 5, Priority.INTERACTIVE, suspect=True) for number in (1, 2)])
    jobs.add([job(3, 5, Priority.BULK), job(4, 5, Priority.BULK)])
    called = []
    while (lead := jobs.lead()) is not None:
        called.append(jobs.next_call(lead, 4, CallPace()))
        jobs.remove(called[-1])
    # Whoever is beside it is not put at risk, and has no part in what it does.
    assert [[one.job.id for one in call] for call in called] == [[3, 4], [1], [2]]
