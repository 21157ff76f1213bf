"""Which jobs the next call of the model takes."""

from dataclasses import replace

from storage.rules.states import Priority
from tests.unit.slot_stage import FakeSlot, job
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


def test_pictures_with_different_loras_share_calls_whatever_they_were_claimed_as() -> None:
    jobs = SlotJobs()
    for number, loras in enumerate(({"ink": 1.0}, {"oil": 0.5}, None), start=1):
        made = job(number, 5)
        # A claim for a batch, of a worker whose model has slots.
        jobs.add([replace(made, spec=made.spec.model_copy(update={"loras": loras}))])
    lead = jobs.lead()
    assert lead is not None
    assert len(jobs.next_call(lead, 4, CallPace())) == 3


def test_whoever_has_begun_goes_on_when_a_trial_of_more_ends() -> None:
    jobs = SlotJobs()
    jobs.add(job(number, 5) for number in range(1, 13))
    *begun, waiting, _ = held = list(jobs)
    for one in begun:
        one.slot = FakeSlot(one.job.spec, None)

    called = jobs.next_call(held[0], 4, CallPace(), at_most=64)
    assert called == begun
    # As far as it fits; and nobody joins beyond the limit.
    assert jobs.next_call(held[0], 4, CallPace(), at_most=6) == held[:6]
    assert jobs.next_call(held[0], 4, CallPace()) == held[:4]
    assert waiting not in called


def test_whoever_is_less_urgent_than_the_lead_stands_aside_beyond_the_limit() -> None:
    jobs = SlotJobs()
    jobs.add(job(number, 5, Priority.BULK) for number in range(1, 5))
    begun = list(jobs)
    for one in begun:
        one.slot = FakeSlot(one.job.spec, None)
    jobs.add([job(5, 5, Priority.NORMAL), job(6, 5, Priority.NORMAL)])
    *normal, _, _, _, _ = held = list(jobs)

    assert jobs.next_call(held[0], 4, CallPace(), at_most=64) == [*normal, *begun[:2]]
