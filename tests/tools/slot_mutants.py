"""Faults of denoising by slots, one invariant each (`tests.tools.mutants`)."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

_LOOP, _IN_HAND, _CLAIMS = (f"worker/serving/{name}.py" for name in ("denoising", "slot_jobs", "claims_ahead"))

OF_SLOTS: Sequence[Mutant] = (
    Mutant(
        fault="a call of the model takes as many pictures as are in hand",
        changes=(
            Change(
                file=_IN_HAND,
                old="found = alike[:limit] + begun[: max(0, at_most - limit)]",
                new="found = alike",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_many_that_wait_are_claimed_ahead",),
    ),
    Mutant(
        fault="a picture that steps aside begins again",
        changes=(
            Change(
                file=_LOOP,
                old="        context.leases.add([one.job for one in called])\n",
                new="        context.leases.add([one.job for one in called])\n"
                "        for one in self._jobs:\n            one.slot = one.slot if one in called else None\n",
            ),
        ),
        tests=(
            "tests/unit/test_denoising.py::test_an_urgent_picture_takes_the_place_of_the_least_urgent_which_goes_on_afterwards",
        ),
    ),
    Mutant(
        fault="pictures that part from others take their noise along",
        changes=(
            Change(
                file="worker/rendering/slot_sampling.py",
                old="[self.generators[place] for place in places]",
                new="self.generators[: len(places)]",
            ),
        ),
        tests=("tests/pipelines/test_slot_neighbours.py::test_a_shared_sampler_steps_each_picture_as_its_own_would",),
    ),
    Mutant(
        fault="pictures that part from others forget their sampler's steps",
        changes=(
            Change(
                file="worker/rendering/slot_sampling.py",
                old="                state[name] = [self._rows(one, places) for one in value]\n",
                new="                state[name] = [None for _ in value]\n",
            ),
        ),
        tests=("tests/pipelines/test_slot_neighbours.py::test_a_shared_sampler_steps_each_picture_as_its_own_would",),
    ),
    Mutant(
        fault="a sampler that ran out of memory leaves the others a step ahead",
        changes=(
            Change(
                file="worker/rendering/slots.py",
                old="        for sampler, state in before:\n            sampler.restore(state)\n",
                new="        before.clear()\n",
            ),
        ),
        tests=(
            "tests/pipelines/test_slot_faults.py::test_memory_that_runs_out_in_one_sampler_takes_back_the_steps_of_the_others",
        ),
    ),
    Mutant(
        fault="what has begun is given back",
        changes=(
            Change(
                file=_IN_HAND,
                old="return [one for one in self._jobs if one.slot is None]",
                new="return [*self._jobs]",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_what_was_claimed_ahead_goes_back_when_the_process_is_to_stop",),
    ),
    Mutant(
        fault="a cancelled picture keeps its slot",
        changes=(
            Change(
                file=_LOOP,
                old="if self._context.leases.all_lost([one.job])]",
                new="if one.job.id < 0]",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_a_cancelled_picture_frees_its_slot_at_the_next_call",),
    ),
    Mutant(
        fault="a suspect is called with others",
        changes=(
            Change(
                file=_IN_HAND,
                old="self.alone or self.job.suspect or",
                new="self.alone or",
            ),
        ),
        tests=("tests/unit/test_slot_jobs.py::test_a_suspect_is_called_alone_whoever_is_in_hand",),
    ),
    Mutant(
        fault="a suspect goes first while others are half-way",
        changes=(
            Change(
                file=_IN_HAND,
                old="(self.job.suspect, self.job.priority, self.number)",
                new="(False, self.job.priority, self.number)",
            ),
        ),
        tests=("tests/unit/test_slot_jobs.py::test_a_suspect_is_called_alone_whoever_is_in_hand",),
    ),
    Mutant(
        fault="a suspect waits as long as others come",
        changes=(
            Change(
                file=_IN_HAND,
                old="return any(one.job.suspect for one in self._jobs)",
                new="return not self",
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_a_suspect_does_not_wait_for_those_that_come_later",),
    ),
    Mutant(
        fault="out of memory takes a slot away, not half of them",
        changes=(
            Change(
                file="worker/serving/batch_limits.py",
                old="max(1, pictures // 2)",
                new="max(1, pictures - 1)",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_out_of_memory_halves_the_slots_and_loses_only_the_call",),
    ),
    Mutant(
        fault="a picture that is made again has the first row",
        changes=(
            Change(
                file="worker/rendering/slot_rows.py",
                old="self.rows, self.first = replayed or (",
                new="self.rows, self.first = (replayed[0], 0) if replayed else (",
            ),
        ),
        tests=(
            "tests/pipelines/test_slot_neighbours.py::test_calls_made_again_have_the_same_latents_also_where_bits_depend_on_the_row",
        ),
    ),
    Mutant(
        fault="a picture that is made again has a call of its own shape",
        changes=(
            Change(
                file="worker/rendering/slots.py",
                old="replayed=None if again is None else (again[0], again[2]),",
                new="replayed=None,",
            ),
        ),
        tests=(
            "tests/pipelines/test_slot_neighbours.py::test_calls_made_again_have_the_same_latents_also_where_bits_depend_on_the_row",
        ),
    ),
    Mutant(
        fault="a picture that is made again is decoded as the first of its call",
        changes=(
            Change(
                file="worker/rendering/slot_decoding.py",
                old="count, first = replay.decoded if replay is not None else (len(chunk), 0)",
                new="count, first = (replay.decoded[0] if replay is not None else len(chunk)), 0",
            ),
        ),
        tests=(
            "tests/pipelines/test_slots.py::test_half_precision_is_decoded_in_single_precision_where_the_vae_needs_it",
        ),
    ),
    Mutant(
        fault="a call that fails fails all of its pictures",
        changes=(
            Change(
                file=_LOOP,
                old="        for one in called:\n            one.alone = True\n",
                new="        self._fail(called, error)\n",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_a_call_that_fails_as_a_whole_costs_only_the_one_to_blame",),
    ),
    Mutant(
        fault="jobs are claimed ahead though few wait",
        changes=(
            Change(
                file=_LOOP,
                old="self._backlog if found.backlog is None else found.backlog",
                new="self._backlog if found.backlog is None else 1000",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_few_that_wait_are_left_to_others",),
    ),
    Mutant(
        fault="a loop that nobody joins any more goes on claiming",
        changes=(
            Change(
                file=_LOOP,
                old="if self._closed or self._ahead.is_asking or",
                new="if self._ahead.is_asking or",
            ),
        ),
        tests=("tests/unit/test_denoising.py::test_nobody_joins_once_another_model_is_due",),
    ),
    Mutant(
        fault="what is claimed while a loop closes is rendered",
        changes=(
            Change(
                file=_LOOP,
                old="        self._note(self._ahead.answer(wait=True))\n        self._give_back()\n",
                new="        self._give_back()\n        self._note(self._ahead.answer(wait=True))\n",
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_who_is_to_stop_begins_nothing_that_it_had_just_claimed",),
    ),
    Mutant(
        fault="what is less urgent is called first",
        changes=(
            Change(
                file=_IN_HAND,
                old="self.job.suspect, self.job.priority,",
                new="self.job.suspect, -self.job.priority,",
            ),
        ),
        tests=(
            "tests/unit/test_denoising.py::test_an_urgent_picture_takes_the_place_of_the_least_urgent_which_goes_on_afterwards",
        ),
    ),
    Mutant(
        fault="nobody steps aside",
        changes=(
            Change(
                file=_IN_HAND,
                old="sum(one.job.priority > priority for one in self._jobs[:limit])",
                new="0 * len(self._jobs[: limit + priority])",
            ),
        ),
        tests=(
            "tests/unit/test_denoising.py::test_an_urgent_picture_takes_the_place_of_the_least_urgent_which_goes_on_afterwards",
        ),
    ),
    Mutant(
        fault="with an urgent picture come others that are not",
        changes=(
            Change(
                file=_CLAIMS,
                old="self._waiting(model, best, room.less_urgent[best])",
                new="room.less_urgent[best]",
            ),
        ),
        tests=(
            "tests/unit/test_denoising_turmoil.py::test_with_each_urgent_picture_come_no_others_that_would_be_held_up_here",
        ),
    ),
    Mutant(
        fault="the device is said to hang with what stands aside",
        changes=(
            Change(
                file=_LOOP,
                old="        context.leases.add_ahead([one.job for one in self._jobs if one not in called])\n",
                new="",
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_what_stands_aside_is_not_what_the_device_hangs_with",),
    ),
    Mutant(
        fault="what breaks the device while it is admitted goes back unblamed",
        changes=(
            Change(
                file=_LOOP,
                old="context.leases.add([one.job for one in called])",
                new="context.leases.add([one.job for one in called if one.slot])",
            ),
        ),
        tests=(
            "tests/unit/test_denoising_turmoil.py::test_a_picture_that_breaks_the_device_while_it_is_admitted_is_blamed",
        ),
    ),
    Mutant(
        fault="admitting may take no longer than a call",
        changes=(
            Change(
                file=_LOOP,
                old="        self._context.watchdog.begin(None)\n        for one in called",
                new="        self._context.watchdog.begin(self._kind(called))\n        for one in called",
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_the_watchdog_learns_from_calls_and_gives_time_to_admit",),
    ),
    Mutant(
        fault="a compiled model is hung when it compiles another shape",
        changes=(
            Change(
                file=_LOOP,
                old='if isinstance(self._model, DiffusersModel) and self._model.compile != "none":',
                new='if isinstance(self._model, DiffusersModel) and self._model.compile == "":',
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_each_shape_of_a_compiled_model_may_take_its_time",),
    ),
    Mutant(
        fault="calls that are made again are taken for the usual pace",
        changes=(
            Change(
                file=_LOOP,
                old="        if not replayed and way.tried is None:\n            self._threads.took(seconds)\n",
                new="        if called:\n            self._threads.took(seconds)\n",
            ),
        ),
        tests=("tests/unit/test_denoising_turmoil.py::test_calls_that_are_made_again_teach_nothing_about_other_calls",),
    ),
)
