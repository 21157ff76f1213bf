"""Folders of pictures with `metadata.jsonl`: Hugging Face's imagefolder."""

from pathlib import Path

from scheduler.export.formats import Format, Rows, lines, made
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.targets import PAPERS, write_down


def write(shard: Shard, rows: Rows, columns: Columns, pictures: Path, into: Path) -> list[str]:
    """A folder `00000` of `KEY.png` and `metadata.jsonl`; rows without a picture are in `00000_failed.jsonl`."""
    folder, failed = into / shard.name, f"{shard.name}_failed.jsonl"
    folder.mkdir()
    shown = [{"file_name": f"{row['key']}.png", **columns.without_null(row)} for row in made(rows)]
    for row in shown:
        # Copied, not linked: disks that people carry away (exFAT) and many network folders have no hard links.
        write_down(folder / row["file_name"], (pictures / row["file_name"]).read_bytes())
    write_down(folder / "metadata.jsonl", lines(shown))
    missing = [row for row in rows if row["status"] != "success"]
    if not missing:
        return [shard.name]
    write_down(into / failed, lines(missing))
    return [shard.name, failed]


FORMAT = Format(name="imagefolder", write=write, stats_in=f"{PAPERS}/", data_files="[0-9]*/*")
