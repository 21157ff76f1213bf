"""Render again: `farm retry` for failed jobs, `farm rerender` to reproduce a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from scheduler.cli.output import json_option, print_json, say
from scheduler.cli.picture_recipe import is_picture, recipe_in
from scheduler.cli.reading import services_to_find
from scheduler.cli.status import render_fields
from scheduler.cli.waiting import reachable_broker, report, report_accepted, see_through
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted, intake_of, publish_tickets, quanta, submit_order
from scheduler.results.compare import Verdict, changed, compare, compare_with_hash
from scheduler.results.download import prepare_folder
from scheduler.services import Services, open_services
from storage.errors import InvalidInput
from storage.renders.views import JobView
from storage.rules.states import Priority, State
from storage.settings import read_settings
from storage.spec.picture import Spec


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--no-wait", is_flag=True, help="Queue the jobs and return.")
@json_option
@click.pass_context
def retry(context: click.Context, render_id: str, out: Path | None, no_wait: bool, as_json: bool) -> None:
    """Render the failed jobs of a render again, with the same seeds."""
    if out is not None and no_wait:
        raise click.UsageError("--out needs the finished pictures: drop --no-wait, or run `farm fetch` later")
    # All of them: what is wrong with a setting is said before anything changes.
    services = services_to_find(render_id).open_all()
    render_id = services.find_render(render_id).id
    models = sorted({job.spec.model for job in services.views.jobs(render_id, state=State.FAILED)})
    for alias in models:
        services.registry[alias]
    if not models:
        say(f"render {render_id} has no failed jobs")
        if as_json:
            print_json(render_fields(services.views.render(render_id)))
        return
    tickets = reachable_broker(services)
    if out is not None:
        prepare_folder(out)
    services.jobs.retry(render_id, quanta=quanta(services.registry))
    publish_tickets(services.jobs, services.registry, tickets, models)
    accepted = Accepted(render_id=render_id, models=tuple(models))
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    context.exit(outcome.exit_code)


@click.command()
@click.argument("job_id", metavar="JOB|PICTURE")
@json_option
@click.pass_context
def rerender(context: click.Context, job_id: str, as_json: bool) -> None:
    """Reproduce a picture and compare it with the original.

    The model is called for it as it was then, with as many rows and, on a CPU, threads: the last bit of a picture can
    depend on both. What was rendered batch by batch is rendered again with its whole batch. Of a picture's file, PNG or
    the JPEG or WebP that the farm gave out, its recipe says what to do, on whatever farm. Exits with 1 if the pictures
    differ.
    """
    if is_picture(job_id):
        verdict = _rerender_picture(Path(job_id), as_json=as_json)
        context.exit(0 if verdict.identical else 1)
    settings = read_settings()
    services = services_to_find(job_id, settings)
    job = services.find_job(job_id)
    job_id = job.id
    if job.state is not State.DONE or job.batch_id is None or job.object is None:
        raise InvalidInput(f"job {job_id} is {job.state}: only a finished picture can be reproduced")
    batch = services.views.batch(job.batch_id)
    recipe = batch.recipe_with(job.own_recipe)
    services.registry[job.spec.model]
    before = services.objects.get(job.object)
    if by_slots := "calls" in recipe:
        position, specs = 0, [job.spec]
    else:
        position, specs = batch.job_row_ids.index(job.row_id), services.views.specs(batch)
    twin = _reproduced(services, specs, position, recipe, f"job {job_id}")
    verdict = compare(before, services.objects.get(str(twin.object)))
    why = _changed(services, recipe, twin)
    if as_json:
        sums = [job.sha256, twin.sha256]
        print_json({"job": job.id, "again": twin.id, "sha256": sums, **verdict.fields(), "changed": why})
    else:
        how = "by the same calls" if by_slots else f"in a batch of {len(batch.job_row_ids)}"
        click.echo(f"{twin.id} is {verdict.words()} {job.id} (rendered {how})")
        for change in why:
            click.echo(f"rendered with a different {change}")
    context.exit(0 if verdict.identical else 1)


def _rerender_picture(path: Path, *, as_json: bool) -> Verdict:
    """Reproduce the picture of a file and say how it compares. Raises InvalidInput for one without a whole recipe."""
    spec, made_with, pixels = recipe_in(path)
    services = open_services(read_settings()).open_all()
    services.registry[spec.model]
    before = path.read_bytes()
    twin = _reproduced(services, [spec], 0, made_with, str(path))
    after = services.objects.get(str(twin.object))
    # Of a picture that was converted, the pixels in the file are others than those that were made.
    verdict = compare(before, after) if pixels is None else compare_with_hash(pixels, after)
    what = str(path) if pixels is None else f"the picture that {path} was made of"
    why = _changed(services, made_with, twin)
    if as_json:
        print_json({"picture": str(path), "again": twin.id, **verdict.fields(), "changed": why})
    else:
        # Its batch mates are not in the file.
        how = "by the same calls" if "calls" in made_with else "alone"
        click.echo(f"{twin.id} is {verdict.words()} {what} (rendered {how})")
        for change in why:
            click.echo(f"rendered with a different {change}")
    return verdict


def _changed(services: Services, recipe: Mapping[str, Any], twin: JobView) -> list[str]:
    """Return how a picture's recipe differs from that of one that was rendered again."""
    return changed(recipe, services.views.batch(twin.batch_id).recipe_with(twin.own_recipe)) if twin.batch_id else []


def _reproduced(
    services: Services, specs: Sequence[Spec], position: int, recipe: Mapping[str, Any], what: str
) -> JobView:
    """Render specifications again as a recipe says; return the job at a position. Raises InvalidInput if it failed."""
    if "calls" in recipe:
        said = ("calls", "decoded", "lora_ranks")
        replay = json.dumps({name: recipe[name] for name in said if name in recipe})
        terms = Terms(priority=Priority.INTERACTIVE, replay=replay)
    else:
        terms = Terms(priority=Priority.INTERACTIVE, together=True, threads=recipe.get("threads"))
    again = submit_order(
        intake_of(services, reachable_broker(services)),
        Submitter(owner=services.settings.owner, local_files=True),
        Order(specs=tuple(specs)),
        terms,
    )
    see_through(services, again)
    twin = services.views.job(f"{again.render_id}-{position}")
    if twin.object is None:
        raise InvalidInput(f"reproducing {what} did not succeed: job {twin.id} is {twin.state}: {twin.error}")
    return twin
