"""`farm upload`: store inputs, which renders refer to by hash."""

from collections.abc import Sequence
from pathlib import Path

import click

from scheduler.cli.output import json_option, print_json, print_table
from scheduler.cli.progress import amount_of
from scheduler.intake.admission import Submitter
from scheduler.intake.uploads import upload as store
from scheduler.services import open_services
from storage.settings import read_settings


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@json_option
def upload(files: Sequence[Path], as_json: bool) -> None:
    """Upload conditioning images and embeddings.

    Prints a reference for each file, which `farm render` takes in place of the file.
    """
    settings = read_settings()
    services = open_services(settings)
    services.objects.check()
    submitter = Submitter(owner=settings.owner, local_files=True)
    found: dict[str, str] = {}
    with amount_of("upload", len(files), "files") as show:
        for number, file in enumerate(files, start=1):
            found[str(file)] = store(services.uploads, submitter, file)
            show(number)
    if as_json:
        print_json(found)
    else:
        print_table(["REFERENCE", "FILE"], ((reference, file) for file, reference in found.items()))
