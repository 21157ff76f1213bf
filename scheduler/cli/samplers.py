"""`farm samplers`: what `--sampler` takes, and what other programs' names become."""

import click

from scheduler.cli.output import json_option, print_json, print_table
from storage.errors import BadSpecification
from storage.spec.foreign_samplers import sampler_of
from storage.spec.sampler_names import (
    ABOUT_SCHEDULES,
    PLAIN,
    SAMPLERS,
    SCHEDULES,
    WITHOUT_SCHEDULES,
)
from storage.spec.samplers import CLASSES


@click.command()
@click.argument("name", required=False)
@json_option
def samplers(name: str | None, as_json: bool) -> None:
    """List the samplers and schedules of noise levels.

    With NAME, a sampler as the web UI, k-diffusion or Diffusers spell it, tells what that is here.
    """
    if name is not None:
        try:
            found = sampler_of(name)
        except BadSpecification as error:
            raise BadSpecification(f"{name[:40]!r} {error}") from None
        print_json({"sampler": found, "name": SAMPLERS[found]}) if as_json else click.echo(SAMPLERS[found])
        return
    if as_json:
        print_json([{"sampler": key, "name": shown} for key, shown in SAMPLERS.items()])
        return
    print_table(
        ["SAMPLER", "DIFFUSERS' CLASS", "SCHEDULES"],
        (
            (shown, CLASSES[key], "none" if key in WITHOUT_SCHEDULES else "any of those below")
            for key, shown in PLAIN.items()
            if key in CLASSES
        ),
    )
    click.echo("\nAlone, a sampler has the timesteps that the model's file asks for. With a schedule, as in")
    click.echo('--sampler "DPM++ 2M SDE Karras", it has that schedule\'s:\n')
    print_table(["SCHEDULE", ""], ((SCHEDULES[key], about) for key, about in ABOUT_SCHEDULES.items()))
