"""Old faults of tidying: what killed processes left stays, or what living ones write goes."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

_TESTS = "tests/contract/test_unfinished_files.py"

OF_LEFTOVERS: Sequence[Mutant] = (
    Mutant(
        fault="what a killed writer left in a folder of objects stays for ever",
        changes=(Change(file="storage/objects/folder.py", old="path.stat().st_mtime < last", new="False"),),
        tests=(f"{_TESTS}::test_what_a_killed_writer_left_is_removed_when_it_is_a_day_old",),
    ),
    Mutant(
        fault="a picture that is being written is taken for what a killed writer left",
        changes=(Change(file="storage/objects/folder.py", old="path.stat().st_mtime < last", new="True"),),
        tests=(f"{_TESTS}::test_a_picture_that_is_being_written_is_left_alone",),
    ),
    Mutant(
        fault="what an export is writing is taken for what a killed one left",
        changes=(
            Change(
                file="scheduler/export/targets.py",
                old="                with _alone(working, str(working)):\n                    shutil.rmtree(working)\n",
                new="                shutil.rmtree(working)\n",
            ),
        ),
        tests=(f"{_TESTS}::test_what_killed_exports_left_on_this_machine_is_removed_by_others_after_a_week",),
    ),
)
