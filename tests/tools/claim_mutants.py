"""Old faults of claims: a claimer that is stopped holds up others."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

OF_CLAIMS: Sequence[Mutant] = (
    Mutant(
        fault="a claimer that is stopped while it hears of long prompts keeps its locks",
        changes=(Change(file="storage/jobs/claim.py", old="_MOST_BYTES = 32 * 2**10", new="_MOST_BYTES = 2**31"),),
        tests=(
            "tests/contract/test_frozen_claimers.py"
            "::test_a_claimer_that_is_stopped_anywhere_in_a_long_claim_holds_up_nobody[at once]",
        ),
    ),
    Mutant(
        fault="prompts are returned within a claim of several statements",
        changes=(
            Change(file="storage/jobs/claim.py", old='    null().label("spec"),', new="    jobs.c.spec,"),
            Change(file="storage/jobs/claim.py", old='    null().label("replay"),', new="    jobs.c.replay,"),
        ),
        tests=(
            "tests/contract/test_frozen_claimers.py"
            "::test_a_claimer_that_is_stopped_anywhere_in_a_long_claim_holds_up_nobody[step by step]",
        ),
    ),
)
