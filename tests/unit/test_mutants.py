"""The table of mutants is about the farm as it is; whether each is caught takes minutes (`tests.tools.mutants`)."""

import pytest

from tests.tools.mutant import Mutant
from tests.tools.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_changes_what_is_there_and_names_tests_that_are(mutant: Mutant) -> None:
    for change in mutant.changes:
        assert (ROOT / change.file).read_text().count(change.old) == 1, change
        assert change.new != change.old
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text()
