"""Old faults of what strangers and frozen workers bring: what they send, and what they store."""

from collections.abc import Sequence

from tests.tools.claim_mutants import OF_CLAIMS
from tests.tools.mutant import Change, Mutant

_ARRIVING = "tests/contract/test_arriving.py"
_FROZEN = "tests/contract/test_publish.py::test_what_others_took_while_the_worker_was_frozen_is_not_stored"
_HALF = "tests/contract/test_problems.py::test_half_of_a_character_is_told_by_its_place"
_DELETED = "tests/contract/test_client_doors.py::test_a_prediction_that_is_deleted_while_it_is_listed_is_left_out"


def _of(fault: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(fault=fault, changes=(Change(file=file, old=old, new=new),), tests=tests)


OF_STRANGERS: Sequence[Mutant] = (
    *OF_CLAIMS,
    _of(
        "a worker stores the picture of a job that is no longer its own",
        "worker/serving/publish.py",
        "wanted=lambda: self._leases.still_ours(job)",
        "wanted=lambda: True",
        _FROZEN,
    ),
    _of(
        "what was known before a worker was frozen counts as known",
        "worker/serving/leases.py",
        "if time.monotonic() - self._asked_at < _FRESH_SECONDS:",
        "if self._asked_at:",
        _FROZEN,
    ),
    _of(
        "half of a character goes to the database",
        "scheduler/api/json_bodies.py",
        "if any(sign in body for sign in _OF_HALVES) and",
        "if False and",
        _HALF,
    ),
    _of(
        "half of a character passes as bytes of its own",
        "scheduler/api/json_bodies.py",
        r'_OF_HALVES = (b"\\ud", b"\\uD", b"\xed", b"\0")',
        r'_OF_HALVES = (b"\\ud", b"\\uD", b"\0")',
        _HALF,
    ),
    _of(
        "half of a character passes where its escape has a capital",
        "scheduler/api/json_bodies.py",
        r'_OF_HALVES = (b"\\ud", b"\\uD", b"\xed", b"\0")',
        r'_OF_HALVES = (b"\\ud", b"\xed", b"\0")',
        _HALF,
    ),
    _of(
        "half of a character passes in UTF-16",
        "scheduler/api/json_bodies.py",
        r'_OF_HALVES = (b"\\ud", b"\\uD", b"\xed", b"\0")',
        r'_OF_HALVES = (b"\\ud", b"\\uD", b"\xed")',
        _HALF,
    ),
    _of(
        "a row may have any number of columns",
        "scheduler/intake/files/columns.py",
        "if len(names) > _MOST_COLUMNS:",
        "if not names:",
        "tests/unit/test_bounds.py::test_a_row_of_very_many_columns_is_refused_before_they_are_looked_at",
    ),
    _of(
        "a prediction that is deleted while it is listed is an internal error",
        "scheduler/results/predictions.py",
        "    if not jobs:\n",
        "    if jobs is None:\n",
        _DELETED,
    ),
    _of(
        "a prediction that is deleted while it is listed fails the list",
        "scheduler/api/compat/replicate.py",
        "with suppress(NotFound):",
        "with suppress():",
        _DELETED,
    ),
    _of(
        "what strangers send is read before they are asked for a key",
        "scheduler/api/arriving.py",
        "if not known and max(told, received) > _STRANGERS_BYTES:",
        "if known:",
        f"{_ARRIVING}::test_strangers_are_turned_away_before_what_they_send_is_read",
    ),
    _of(
        "a body that does not go on is waited for without an end",
        "scheduler/api/arriving.py",
        "waited += _LOOK_SECONDS",
        "waited += 0.0",
        f"{_ARRIVING}::test_a_body_that_does_not_go_on_is_given_up",
    ),
    _of(
        "a connection on which nothing is asked stays open",
        "scheduler/api/arriving.py",
        "            self.transport.close()\n",
        "            pass\n",
        f"{_ARRIVING}::test_a_connection_on_which_nothing_is_asked_is_closed",
    ),
    _of(
        "a WebP of 28 bytes takes a gigabyte while it is checked",
        "scheduler/intake/decoded_size.py",
        "_WEBP_BYTES = 12",
        "_WEBP_BYTES = 0",
        "tests/unit/test_decoded_size.py::test_what_takes_too_much_memory_to_decode_is_refused_by_its_header",
    ),
    _of(
        "a progressive JPEG counts as one of a single scan",
        "scheduler/intake/decoded_size.py",
        "    if scans > 1:\n",
        "    if scans > 1000:\n",
        "tests/unit/test_decoded_size.py::test_what_takes_too_much_memory_to_decode_is_refused_by_its_header",
    ),
    _of(
        "a store that says that it has refused, and overwrites, is served",
        "storage/objects/probe.py",
        " or found == _SECOND:",
        ":",
        "tests/contract/test_probe.py::test_a_store_that_lies_is_found",
    ),
    _of(
        "a store that loses what it has taken is served",
        "storage/objects/probe.py",
        "if found is None or found not in (_FIRST, _SECOND):",
        "if False:",
        "tests/contract/test_probe.py::test_a_store_that_lies_is_found",
    ),
    _of(
        "what a key has asked for in a minute is looked for among all that it ever did",
        "storage/access/quotas.py",
        "renders.c.created_at > this_moment() - 60",
        "renders.c.created_at > database_now() - 60",
        "tests/contract/test_asked_of_lately.py::test_what_was_made_before_is_not_read[limits of a key]",
    ),
    _of(
        "a child that hangs while another machine has its name is left alone",
        "worker/process/child_watch.py",
        "pid = next(iter(children), None) if beat.silent_for <= SILENT_SECONDS else None",
        "pid = None",
        "tests/unit/test_child_watch.py::test_a_child_whose_name_another_machine_took_while_it_hung_is_killed",
    ),
    _of(
        "two workers of one name that start at the same moment undo each other",
        "storage/fleet/workers.py",
        """        if connection.dialect.name == "postgresql":  # SQLite's writers""",
        """        if connection.dialect.name == "":  # SQLite's writers""",
        "tests/contract/test_workers.py::test_of_workers_that_ask_for_a_name_at_the_same_moment_one_gets_it",
    ),
)
