"""Faults of LoRAs and textual inversions: memory that grows, the slower way kept, vectors that nobody counts."""

from collections.abc import Sequence

from tests.tools.mutant import Change, Mutant

_MANY = "tests/pipelines/test_many_loras.py"
_ROWS = "tests/pipelines/test_lora_rows.py"

OF_LORAS: Sequence[Mutant] = (
    Mutant(
        fault="pictures with different LoRAs are called in the way that is slower",
        changes=(
            Change(
                file="worker/serving/lora_calls.py",
                old="known.apart = apart < _BETTER * together",
                new="known.apart = apart > together",
            ),
        ),
        tests=("tests/unit/test_lora_calls.py::test_both_ways_are_tried_in_turns_and_what_is_clearly_faster_is_kept",),
    ),
    Mutant(
        fault="sets of LoRAs that are called apart take turns at one place, and are copied there at every call",
        changes=(
            Change(file="worker/rendering/slots.py", old="        if apart:\n", new="        if apart and used:\n"),
        ),
        tests=(f"{_ROWS}::test_sets_that_are_called_apart_keep_their_places",),
    ),
    Mutant(
        fault="LoRAs stay in memory for ever",
        changes=(
            Change(
                file="worker/rendering/lora_set.py",
                old="            if total <= _MOST_BYTES and len(self._kept) <= _MOST:\n",
                new="            if alias:\n",
            ),
        ),
        tests=(f"{_MANY}::test_what_was_not_used_for_the_longest_time_is_forgotten",),
    ),
    Mutant(
        fault="adapters that were not used for long stay in the layers",
        changes=(
            Change(
                file="worker/rendering/loras.py",
                old="            if len(self._loaded) <= max(_MOST_ADAPTERS, len(keep)):\n",
                new="            if alias:\n",
            ),
        ),
        tests=(f"{_MANY}::test_pefts_adapters_beyond_the_eighth_are_taken_out_and_come_back_as_they_were",),
    ),
    Mutant(
        fault="a word that stands for eight vectors is counted as one token",
        changes=(
            Change(
                file="storage/spec/embedding_words.py",
                old="total += self._numbers[place.alias]",
                new="total += 1",
            ),
        ),
        tests=("tests/unit/test_embedding_words.py::test_each_vector_is_a_token_of_the_prompts_room",),
    ),
)
