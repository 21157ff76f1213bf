"""Faults within a tick of slots and of which pictures it is made for, one invariant each (`tests.tools.mutants`)."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

_SLOTS = "tests/pipelines/test_slots.py"
_MIXED = f"{_SLOTS}::test_every_control_does_in_slots_what_it_does_in_a_pipeline[sd-eta]"
_SIZES = "tests/unit/test_mixed_sizes.py"

OF_TICKS: Sequence[Mutant] = (
    Mutant(
        fault="a slot that joined has another's timestep",
        changes=(
            Change(
                file="worker/rendering/slot_rows.py",
                old="numbers = [timesteps[number] for number in layout.slot_of]",
                new="numbers = [timesteps[0] for _ in layout.slot_of]",
            ),
        ),
        tests=(_MIXED,),
    ),
    Mutant(
        fault="a slot has another's guidance",
        changes=(
            Change(
                file="worker/rendering/slot_rows.py",
                old="steering = [scale for slot in slots for scale in slot.scales]",
                new="steering = [scale for slot in reversed(slots) for scale in slot.scales]",
            ),
        ),
        tests=(f"{_SLOTS}::test_every_sampler_draws_in_slots_what_it_draws_in_a_pipeline[sd]",),
    ),
    Mutant(
        fault="pictures that part from others take their neighbours' latents and history",
        changes=(
            Change(
                file="worker/rendering/slot_sampling.py",
                old="            return value[list(places)]\n",
                new="            return value[: len(places)]\n",
            ),
        ),
        tests=("tests/pipelines/test_slot_neighbours.py::test_a_shared_sampler_steps_each_picture_as_its_own_would",),
    ),
    Mutant(
        fault="a recipe names another row",
        changes=(
            Change(file="worker/rendering/slots.py", old="layout.place(number), rank)", new="layout.place(0), rank)"),
        ),
        tests=(f"{_SLOTS}::test_a_recipe_has_runs_of_equal_calls",),
    ),
    Mutant(
        fault="a recipe names another shape",
        changes=(Change(file="worker/rendering/slots.py", old="[(slot, layout.rows, ", new="[(slot, slot.rows, "),),
        tests=(f"{_SLOTS}::test_a_recipe_has_runs_of_equal_calls",),
    ),
    Mutant(
        fault="a slot is given the picture of another that was decoded with it",
        changes=(
            Change(
                file="worker/rendering/slot_decoding.py",
                old="tensors[first + number][None]",
                new="tensors[first][None]",
            ),
        ),
        tests=(_MIXED,),
    ),
    Mutant(
        fault="a tick waits for the device",
        changes=(
            Change(
                file="worker/rendering/slot_sampling.py",
                old="        self.latents = stepped.to(before.dtype)\n",
                new="        self.latents = stepped.to(before.dtype)\n        float(stepped.max())\n",
            ),
        ),
        tests=("tests/pipelines/test_slot_sync.py::test_no_sampler_reads_a_value_back_within_a_tick[sd]",),
    ),
    Mutant(
        fault="sizes that few in hand have are called half empty",
        changes=(
            Change(
                file="worker/serving/denoising.py",
                old="        lead = self._jobs.fullest(lead, ",
                new="        self._jobs.fullest(lead, ",
            ),
        ),
        tests=(f"{_SIZES}::test_calls_are_full_while_many_of_three_sizes_wait",),
    ),
    Mutant(
        fault="a picture of a rare size waits as long as others come",
        changes=(
            Change(
                file="worker/serving/slot_jobs.py", old="        lead.passed += 1\n", new="        lead.passed += 0\n"
            ),
        ),
        tests=(f"{_SIZES}::test_the_fullest_call_goes_first_but_the_first_job_waits_only_so_long",),
    ),
    Mutant(
        fault="pictures that join get the keys of those whose places they have",
        changes=(
            Change(
                file="worker/rendering/cross_attention.py",
                old="self._of[0] is not embeddings or self._of[1] != threads",
                new="self._of[0].shape != embeddings.shape",
            ),
            Change(
                file="worker/rendering/cross_attention.py",
                old="        if given is not embeddings:\n",
                new="        if embeddings is None or given.shape != embeddings.shape:\n",
            ),
        ),
        tests=("tests/pipelines/test_cross_attention.py",),
    ),
    Mutant(
        fault="what comes during a call is found during the next one",
        changes=(
            Change(
                file="worker/serving/claims_ahead.py",
                old="        self._wanted.wait(seconds)\n",
                new="        self._wanted.wait(0)\n",
            ),
        ),
        tests=("tests/unit/test_claims_ahead.py",),
    ),
    Mutant(
        fault="pictures that leave together are told to have begun together",
        changes=(
            Change(
                file="worker/serving/denoising.py",
                old="key = (json.dumps(picture.common_recipe(), sort_keys=True), one.began_at)",
                new="key = (json.dumps(picture.common_recipe(), sort_keys=True), min(it.began_at for it, _ in done))",
            ),
        ),
        tests=("tests/unit/test_slot_counts.py",),
    ),
)
