"""The card of a dataset, `README.md`: tells Hugging Face's `datasets` which of the files are pictures.

Without it, `load_dataset(DIR)` goes by the most frequent suffix, and in case of a draw by a table's: it would read what
lies beside the pictures, and none of them.
"""

from pathlib import Path

from scheduler.export.targets import Target, writing

NAME = "README.md"
_TEXT = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: "{pattern}"
---

Pictures of a Diffusion Farm, with what they were asked for and made with: `load_dataset(DIR, split="train")`.
"""


def place(target: Target, pattern: str, working: Path) -> None:
    """Place the card, unless there is one, which people may have written on."""
    if target.read(NAME) is not None:
        return
    built = working / NAME
    with writing(target.shown):
        built.write_bytes(_TEXT.format(pattern=pattern).encode())
    target.place(NAME, built)
