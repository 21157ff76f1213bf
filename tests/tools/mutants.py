"""The farm with an old fault put back, and the tests that must catch it: `python -m tests.tools.mutants [WORDS]`.

Each mutant is made in a copy of the tracked files; a mutant that its tests pass is one that they would not notice.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tests.tools.answer_mutants import OF_ANSWERS
from tests.tools.leftover_mutants import OF_LEFTOVERS
from tests.tools.lora_mutants import OF_LORAS
from tests.tools.mutant import Change, Mutant
from tests.tools.slot_mutants import OF_SLOTS
from tests.tools.slot_tick_mutants import OF_TICKS
from tests.tools.stranger_mutants import OF_STRANGERS
from tests.tools.webhook_mutants import OF_WEBHOOKS

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 600
#: Tests that do not end are no success either.
_NOTICED = ("caught", "hung")


MUTANTS: Sequence[Mutant] = (
    *OF_ANSWERS,
    *OF_LEFTOVERS,
    *OF_LORAS,
    *OF_STRANGERS,
    *OF_WEBHOOKS,
    Mutant(
        fault="a farm is open again when its last key has ended",
        changes=(
            Change(
                file="storage/access/keys.py",
                old="select(or_(exists(select(keys.c.id)), exists(noted)))",
                new="select(exists(select(keys.c.id).where(keys.c.revoked_at.is_(None))))",
            ),
        ),
        tests=("tests/contract/test_requests_over_http.py::test_when_its_last_key_ends_a_farm_is_closed_and_not_open",),
    ),
    Mutant(
        fault="who comes through a proxy counts as being on this machine",
        changes=(
            Change(
                file="scheduler/api/access.py",
                old='if name in _OF_PROXIES or name.startswith("x-forwarded-"):',
                new="if False:",
            ),
        ),
        tests=("tests/contract/test_requests_over_http.py::test_who_comes_through_a_proxy_is_not_on_this_machine",),
    ),
    Mutant(
        fault="each caller that waits holds a thread",
        changes=(
            Change(
                file="scheduler/api/compat/pictures.py",
                old="        await context.waiters.wait(\n",
                new="        from time import sleep\n\n"
                "        def poll() -> None:\n"
                "            while not context.views.render(accepted.render_id).finished:\n"
                "                sleep(0.2)\n\n"
                "        await run_in_threadpool(poll)\n"
                "        await context.waiters.wait(\n",
            ),
        ),
        tests=(
            "tests/contract/test_waiting.py::test_waiting_callers_hold_up_nobody_and_all_get_their_pictures",
            "tests/contract/test_waiting.py::test_whoever_vanishes_waits_no_longer",
        ),
    ),
    Mutant(
        fault="a Parquet file may unpack to whatever it likes",
        changes=(
            Change(
                file="scheduler/intake/files/parquet_child.py",
                old="resource.setrlimit(resource.RLIMIT_AS, (taken + n_bytes, resource.RLIM_INFINITY))",
                new="del taken, n_bytes",
            ),
        ),
        tests=("tests/unit/test_bounds.py::test_a_parquet_of_ten_kilobytes_takes_no_more_memory_than_a_prompt_file",),
    ),
    Mutant(
        fault="behind a pooler, rows of a render are staged in a connection that others get",
        changes=(
            Change(
                file="storage/jobs/staging.py",
                old='    if not database.url.startswith("sqlite"):\n',
                new='    if database.url == "":\n',
            ),
            Change(
                file="storage/jobs/staging.py",
                old='    postgresql_on_commit="DROP",\n',
                new='    postgresql_on_commit="PRESERVE ROWS",\n',
            ),
        ),
        tests=("tests/contract/test_poolers.py",),
    ),
    Mutant(
        fault="a job that comes back does not see that its render is being held",
        changes=(
            Change(
                file="storage/jobs/holding.py",
                old='    if connection.dialect.name != "postgresql":\n        return which\n',
                new='    if connection.dialect.name != "":\n        return which\n',
            ),
        ),
        tests=("tests/contract/test_jobs_interleaved.py",),
    ),
    Mutant(
        fault="limits are checked before the transaction that accepts",
        changes=(
            Change(
                file="storage/access/quotas.py",
                old='    if not is_alone(limits) or connection.dialect.name != "postgresql":\n',
                new='    if not is_alone(limits) or connection.dialect.name != "":\n',
            ),
        ),
        tests=(
            "tests/contract/test_limits.py::test_of_twenty_requests_at_once_as_many_are_accepted_as_the_limit_allows",
            "tests/contract/test_limits.py::test_manifests_that_are_read_at_once_keep_to_the_limit",
        ),
    ),
    Mutant(
        fault="a picture is deleted while its job is locked",
        changes=(
            Change(
                file="storage/jobs/orphans.py",
                old="        due_at = connection.execute(\n            update(orphans)\n",
                new='        self._objects.delete(picture_key(job.render_id, job._mapping["index"]))\n'
                "        due_at = connection.execute(\n            update(orphans)\n",
            ),
        ),
        tests=(
            "tests/contract/test_orphans.py::test_a_store_that_hangs_while_it_deletes_keeps_nobody_from_the_database",
        ),
    ),
    Mutant(
        fault="a claimer that is stopped within its claim keeps its model from everybody",
        changes=(
            Change(
                file="storage/jobs/claim.py",
                old="set_config('idle_in_transaction_session_timeout', :frozen, true)",
                new="set_config('farm.mutant', :frozen, true)",
            ),
        ),
        tests=("tests/contract/test_jobs_races.py::test_a_claimer_that_freezes_keeps_its_model_from_nobody",),
    ),
    Mutant(
        fault="a store that overwrites is served",
        changes=(
            Change(
                file="storage/objects/probe.py",
                old="    if second.sha256 != first.sha256 or found == _SECOND:\n",
                new="    if second.sha256 == first.sha256 == '':\n",
            ),
        ),
        tests=("tests/integration/test_unfit_store.py",),
    ),
    Mutant(
        fault="two workers of one name undo what the other does",
        changes=(
            Change(
                file="storage/fleet/workers.py",
                old="        if (other := self._other(connection, worker.name)) is not None:\n",
                new='        if (other := self._other(connection, "")) is not None:\n',
            ),
        ),
        tests=("tests/contract/test_workers.py::test_two_workers_of_one_name_do_not_undo_each_other",),
    ),
    Mutant(
        fault="each problem of a body is compared with every other one",
        changes=(
            Change(
                file="scheduler/api/problems.py",
                old="if place not in outer]",
                new="if not any(len(other) > len(place) and other[: len(place)] == place for other in places)]",
            ),
        ),
        tests=("tests/unit/test_bounds.py::test_as_many_problems_as_a_body_has_fields_are_sorted_at_once",),
    ),
    Mutant(
        fault="a body's object may have as many fields as fit",
        changes=(Change(file="scheduler/api/json_bodies.py", old="_MOST_KEYS = 10_000\n", new="_MOST_KEYS = 10**9\n"),),
        tests=(
            "tests/contract/test_door_bounds.py"
            "::test_json_of_an_object_of_very_many_fields_is_refused_before_they_are_errors",
        ),
    ),
    Mutant(
        fault="a render is deleted under an export that has just begun",
        changes=(
            Change(
                file="storage/renders/deletion.py",
                old="        lock_renders(connection, [render_id])\n        refuse_needed(connection, render_id)\n",
                new="        lock_renders(connection, [render_id])\n",
            ),
            Change(
                file="storage/renders/deletion.py",
                old="        refuse_needed(connection, render_id)\n        cancelled",
                new="        cancelled",
            ),
        ),
        tests=("tests/contract/test_deletion.py::test_an_export_keeps_its_render_and_cancels_nothing_of_it",),
    ),
    Mutant(
        fault="what a killed worker stored after its render was deleted stays for ever",
        changes=(
            Change(
                file="scheduler/results/purge.py",
                old="finished_for is None or finished_for < self.spared_seconds",
                new="finished_for is None",
            ),
        ),
        tests=(
            "tests/contract/test_deletion.py::"
            "test_a_picture_of_a_worker_that_was_killed_after_its_render_was_deleted_is_removed",
        ),
    ),
    Mutant(
        fault="two downloads into one folder take each other's unfinished files",
        changes=(
            Change(
                file="scheduler/results/download.py",
                old='f"{job.id}-{secrets.token_hex(4)}.part"',
                new='f"{job.id}.part"',
            ),
        ),
        tests=("tests/contract/test_download.py::test_a_download_that_another_one_overtakes_finds_its_picture",),
    ),
    Mutant(
        fault="an index goes on behind half a line",
        changes=(
            Change(
                file="scheduler/results/picture_index.py",
                old="file.truncate(self._read_to)",
                new="pass",
            ),
        ),
        tests=("tests/contract/test_download.py::test_an_index_is_resumed_and_grows_with_a_second_render",),
    ),
    Mutant(
        fault="a label with NUL hides all others from PostgreSQL",
        changes=(
            Change(
                file="storage/renders/filters.py",
                old="cast(_sound_labels().op",
                new="cast(cast(jobs.c.labels, _jsonb()).op",
            ),
        ),
        tests=("tests/contract/test_lists.py::test_a_label_that_no_database_can_read_hides_no_other",),
    ),
    Mutant(
        fault="a picture's history names others' pictures of its batch",
        changes=(Change(file="storage/renders/batch_views.py", old="    if owner is not None:", new="    if False:"),),
        tests=("tests/contract/page/test_page_pictures.py::test_a_batch_names_no_picture_of_another_owner",),
    ),
    Mutant(
        fault="a list of renders reads all jobs",
        changes=(
            Change(
                file="storage/renders/filters.py",
                old="jobs.c.state == literal_column(f\"'{State.RUNNING}'\")",
                new="jobs.c.state == State.RUNNING",
            ),
        ),
        tests=("tests/contract/test_lists.py::test_a_list_of_renders_does_not_read_all_jobs",),
    ),
    Mutant(
        fault="a file is refused for its first bad row alone",
        changes=(
            Change(
                file="scheduler/intake/submit.py",
                old="bad = bad or BadRows(together=True)",
                new="bad = bad or BadRows()",
            ),
        ),
        tests=(
            "tests/contract/test_forgiving.py::test_all_bad_rows_of_a_file_are_told_over_http_and_nothing_is_accepted",
        ),
    ),
    Mutant(
        fault="a picture is made again by as many threads as the worker likes",
        changes=(
            Change(
                file="worker/serving/thread_choice.py",
                old="if jobs[0].threads is not None:\n            return",
                new="if False:\n            return",
            ),
        ),
        tests=("tests/unit/test_thread_choice.py",),
    ),
    Mutant(
        fault="a job forgets by how many threads it is to be rendered",
        changes=(
            Change(
                file="storage/jobs/submission.py",
                old="{} if submission.threads is None else",
                new="{} if True else",
            ),
        ),
        tests=("tests/contract/test_jobs_order.py",),
    ),
    Mutant(
        fault="embeddings made by another number of threads are used",
        changes=(
            Change(
                file="worker/rendering/prompts.py",
                old="key = (torch.get_num_threads(), *asked)",
                new="key = asked",
            ),
        ),
        tests=("tests/pipelines/test_threads.py",),
    ),
    Mutant(
        fault="recipes say the number of threads that a model was loaded with",
        changes=(
            Change(
                file="worker/rendering/pipeline.py",
                old='recipe["threads"] = torch.get_num_threads()',
                new="pass",
            ),
        ),
        tests=("tests/pipelines/test_threads.py",),
    ),
    *OF_SLOTS,
    *OF_TICKS,
)


@click.command()
@click.argument("words", default="")
def main(words: str) -> None:
    """Make each mutant whose fault has these WORDS in its name, and run its tests. Exit code 1 if one survives."""
    survived = 0
    for mutant in MUTANTS:
        if words in mutant.fault:
            verdict = _verdict(mutant)
            survived += verdict not in _NOTICED
            click.echo(f"{verdict:10} {mutant.fault}")
    sys.exit(1 if survived else 0)


def _verdict(mutant: Mutant) -> str:
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        _copy(folder)
        for change in mutant.changes:
            path = folder / change.file
            text = path.read_text()
            if text.count(change.old) != 1:
                return "outdated"
            path.write_text(text.replace(change.old, change.new))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder)},
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hung"  # as the farm did
        # 1: some tests failed. Anything else but 0 is not about the mutant.
        return {0: "SURVIVED", 1: "caught"}.get(done.returncode, f"exit {done.returncode}")


def _copy(folder: Path) -> None:
    """Copy what git knows of, so that nothing that was built or run comes along."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


if __name__ == "__main__":
    main()
