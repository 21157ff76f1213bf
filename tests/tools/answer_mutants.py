"""Old faults of answers: what they quoted, and whose they were."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

OF_ANSWERS: Sequence[Mutant] = (
    Mutant(
        fault="an answer that quotes half of a character is an internal error",
        changes=(Change(file="scheduler/api/problems.py", old='"utf-8", "backslashreplace"', new='"utf-8"'),),
        tests=("tests/contract/test_problems.py::test_half_of_a_character_is_refused_at_every_door_and_quoted",),
    ),
    Mutant(
        fault="whoever runs a schedule now is told of what the clock has taken",
        changes=(Change(file="scheduler/cron/by_hand.py", old="limit=1, at=at", new="limit=1"),),
        tests=(
            "tests/contract/test_schedule_doors.py"
            "::test_one_that_a_rule_keeps_from_running_now_says_which_whatever_the_clock_has_taken",
        ),
    ),
    Mutant(
        fault="everybody waits while the OpenAPI document is built",
        changes=(
            Change(
                file="scheduler/api/open_api.py",
                old="await run_in_threadpool(build_once)",
                new="await route.endpoint(request)",
            ),
        ),
        tests=("tests/contract/test_waiting.py::test_the_openapi_document_is_built_while_others_are_answered",),
    ),
    Mutant(
        fault="requests of one limited key wait for one another with everybody's connections",
        changes=(
            Change(
                file="storage/access/key_locks.py",
                old="if key_id is None or not is_alone(limits):",
                new="if key_id is None or limits is not None:",
            ),
        ),
        tests=(
            "tests/contract/test_limits.py"
            "::test_requests_of_a_limited_key_that_wait_for_one_another_leave_connections_to_others",
        ),
    ),
)
