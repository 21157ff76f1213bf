"""Old faults of claims: one that is stopped holds up others, two tear a batch apart."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

OF_CLAIMS: Sequence[Mutant] = (
    Mutant(
        fault="two claims that choose at once keep what each got of a batch",
        changes=(
            Change(
                file="storage/database/migrations/versions/r0028_claims_beside_one_another.py",
                old="            IF NOT (whole OR alone) THEN\n",
                new="            IF false THEN\n",
            ),
        ),
        tests=(
            "tests/contract/test_jobs_races.py"
            "::test_a_claim_that_finds_a_part_of_a_batch_lets_go_of_it_until_nobody_chooses",
        ),
    ),
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
