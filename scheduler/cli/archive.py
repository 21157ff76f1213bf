"""The archive that `farm fetch --zip` writes."""

from pathlib import Path

import click

from scheduler.cli.output import counted, print_json, say
from scheduler.cli.progress import amount_of
from scheduler.results.archive import MISSING, Archive
from scheduler.services import Services
from storage.errors import InvalidInput
from storage.renders.views import JobView, RenderView


def write_archive(services: Services, render: RenderView, file: Path, *, as_json: bool) -> int:
    """Write a render's finished pictures into a new file, say so, and return how many are missing.

    Nothing is left of one that is interrupted. Raises InvalidInput if the file is there already, or cannot be written.
    """
    if file.exists():
        raise InvalidInput(f"--zip {file}: exists; choose another file, or remove it")
    written = missing = 0
    first = ""
    unfinished = file.with_name(f".{file.name}.part")
    archive = Archive(views=services.views, objects=services.objects, render_id=render.id)
    try:
        with unfinished.open("wb") as to, amount_of(f"render {render.id}", render.done, "pictures") as show:

            def told(job: JobView, problem: str | None) -> None:
                nonlocal written, missing, first
                if problem is None:
                    written += 1
                else:
                    missing += 1
                    first = first or f"{job.file_name}: {problem}"
                show(written + missing)

            to.writelines(archive.parts(told))
        unfinished.replace(file)
    except OSError as error:
        raise InvalidInput(
            f"--zip {file}: cannot be written ({error.strerror or error}); choose another file"
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)
    if as_json:
        print_json({"render": render.id, "file": str(file), "pictures": written, "missing": missing})
    else:
        click.echo(f"{counted(written, 'picture')} of render {render.id} in {file}")
    if missing:
        say(f"{counted(missing, 'picture')} missing ({MISSING} in the archive says which), such as {first}")
    return missing
