"""What each class of fault leads to, and when a worker is left out."""

from itertools import product

import pytest

from storage.rules.faults import QUARANTINED_AFTER, REACTIONS, Fault, Incident, Scope, Situation, decide, quarantine
from storage.rules.states import TRANSITIONS, State, Transition

AGAIN, FAILED = Transition.REQUEUE, Transition.FAIL

#: fault → what becomes of a job in its first of three attempts, in company: (event, burns, alone, elsewhere), with
#: other workers and without.
EXPECTED: dict[Fault, tuple[tuple[Transition, bool, bool, bool], tuple[Transition, bool, bool, bool]]] = {
    Fault.OUT_OF_MEMORY: ((AGAIN, True, False, True), (FAILED, True, False, False)),
    Fault.BROKEN_DEVICE: ((AGAIN, False, False, True), (AGAIN, False, False, False)),
    Fault.BAD_SPECIFICATION: ((FAILED, True, False, False), (FAILED, True, False, False)),
    Fault.BAD_PICTURE: ((FAILED, True, False, False), (FAILED, True, False, False)),
    Fault.BAD_WEIGHTS: ((AGAIN, True, False, True), (FAILED, True, False, False)),
    Fault.PIPELINE_ERROR: ((AGAIN, True, False, True), (AGAIN, True, False, False)),
    Fault.TIMEOUT: ((AGAIN, True, True, True), (AGAIN, True, True, False)),
    Fault.WORKER_DIED: ((AGAIN, True, True, True), (AGAIN, True, True, False)),
    Fault.LOST_LEASE: ((AGAIN, False, True, False), (AGAIN, False, True, False)),
    Fault.STORE_AWAY: ((AGAIN, False, False, False), (AGAIN, False, False, False)),
    Fault.DATABASE_AWAY: ((AGAIN, False, False, False), (AGAIN, False, False, False)),
    Fault.BROKER_AWAY: ((AGAIN, False, False, False), (AGAIN, False, False, False)),
}
EVERY = [*product(Fault, (1, 2, 3), (False, True), (False, True))]


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("fault", Fault)
def test_each_class_leads_to_what_the_table_says(fault: Fault, others: bool) -> None:
    found = decide(fault, Situation(attempt=1, max_attempts=3, alone=False, others=others))
    assert (found.event, found.burns, found.alone, found.elsewhere) == EXPECTED[fault][0 if others else 1]
    assert not found.spent


@pytest.mark.parametrize(("fault", "attempt", "alone", "others"), EVERY)
def test_a_job_fails_when_its_last_attempt_is_burned_and_not_before(
    fault: Fault, attempt: int, alone: bool, others: bool
) -> None:
    found = decide(fault, Situation(attempt=attempt, max_attempts=3, alone=alone, others=others))
    assert State.RUNNING in TRANSITIONS[found.event][0]
    hopeless = EXPECTED[fault][0 if others else 1][0] is FAILED
    assert (found.event is FAILED) == (hopeless or (found.burns and attempt == 3))
    assert found.spent == (found.event is FAILED and not hopeless)
    assert not (found.elsewhere and (not others or found.event is FAILED))


@pytest.mark.parametrize("fault", Fault)
def test_who_was_under_suspicion_stays_so_and_burns_its_attempts(fault: Fault) -> None:
    found = decide(fault, Situation(attempt=1, max_attempts=3, alone=True, others=True))
    assert found.alone
    if fault is Fault.LOST_LEASE:
        assert found.burns


def test_no_fault_of_a_service_counts_against_anybody() -> None:
    services = {Fault.STORE_AWAY, Fault.DATABASE_AWAY, Fault.BROKER_AWAY}
    assert all(REACTIONS[fault].against is Scope.NOTHING for fault in services)
    assert REACTIONS.keys() == set(Fault)


# -- quarantine ------------------------------------------------------------------------------------------------


def incident(fault: Fault, *jobs: int, model: str = "sd", overcome: bool = False) -> Incident:
    return Incident(fault=fault, model=model, jobs=frozenset(jobs), overcome=overcome)


@pytest.mark.parametrize("others", [True, False])
def test_a_device_that_breaks_three_times_is_left_out_whoever_else_there_is(others: bool) -> None:
    # It is given the same jobs again where it is the only one; and what succeeded in between does not count.
    broken = [incident(Fault.BROKEN_DEVICE, 1, 2, overcome=True)] * QUARANTINED_AFTER
    assert quarantine(broken, model="sd", others=others) is Scope.DEVICE
    assert quarantine(broken[1:], model="sd", others=others) is Scope.NOTHING


@pytest.mark.parametrize(
    ("fault", "scope"),
    [
        (Fault.PIPELINE_ERROR, Scope.MODEL),
        (Fault.BAD_WEIGHTS, Scope.MODEL),
        (Fault.WORKER_DIED, Scope.DEVICE),
        (Fault.TIMEOUT, Scope.DEVICE),
        (Fault.BAD_SPECIFICATION, Scope.NOTHING),
        (Fault.BAD_PICTURE, Scope.NOTHING),
        (Fault.OUT_OF_MEMORY, Scope.NOTHING),
        (Fault.LOST_LEASE, Scope.NOTHING),
    ],
)
def test_a_worker_that_fails_three_different_jobs_is_left_out_where_others_could_do_better(
    fault: Fault, scope: Scope
) -> None:
    found = [incident(fault, n) for n in range(3)]
    assert quarantine(found, model="sd", others=True) is scope
    assert quarantine(found[1:], model="sd", others=True) is Scope.NOTHING
    assert quarantine(found, model="sd", others=False) is Scope.NOTHING


def test_one_poison_job_condemns_no_worker() -> None:
    # In company first, then alone.
    deaths = [incident(Fault.WORKER_DIED, 7), incident(Fault.WORKER_DIED, 7), incident(Fault.WORKER_DIED, *range(8))]
    assert quarantine(deaths, model="sd", others=True) is Scope.NOTHING


def test_what_went_well_since_clears_a_worker() -> None:
    found = [incident(Fault.PIPELINE_ERROR, n, overcome=n < 2) for n in range(4)]
    assert quarantine(found, model="sd", others=True) is Scope.NOTHING


def test_a_model_is_left_out_for_its_own_faults_only() -> None:
    found = [incident(Fault.PIPELINE_ERROR, n, model="sd" if n else "xl") for n in range(3)]
    assert quarantine(found, model="sd", others=True) is Scope.NOTHING
