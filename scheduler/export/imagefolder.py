"""Folders of pictures with `metadata.jsonl`: Hugging Face's imagefolder."""

from collections.abc import Iterator
from pathlib import Path

from scheduler.export.formats import Format, Rows, lines, made
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.targets import PAPERS


def write(shard: Shard, rows: Rows, columns: Columns, pictures: Iterator[bytes], into: Path) -> list[str]:
    """A folder `00000` of `KEY.png` and `metadata.jsonl`.

    Rows without a picture are in `00000_failed.jsonl` and `00000_cancelled.jsonl`.
    """
    folder, names = into / shard.name, [shard.name]
    folder.mkdir()
    shown = [{"file_name": f"{row['key']}.png", **columns.without_null(row)} for row in made(rows)]
    for row, picture in zip(shown, pictures, strict=True):
        # Copied, not linked: disks that people carry away (exFAT) and many network folders have no hard links.
        (folder / row["file_name"]).write_bytes(picture)
    (folder / "metadata.jsonl").write_bytes(lines(shown))
    for status in ("failed", "cancelled"):
        if missing := [row for row in rows if row["status"] == status]:
            names.append(f"{shard.name}_{status}.jsonl")
            (into / names[-1]).write_bytes(lines(missing))
    return names


FORMAT = Format(name="imagefolder", write=write, stats_in=f"{PAPERS}/", data_files="[0-9]*/*")
