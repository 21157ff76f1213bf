"""Commands that only look: `farm status`, `farm list`, `farm jobs`, `farm recipe`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.filters import Since, called, is_job, label_option, read_labels, shown_labels
from scheduler.cli.output import duration, json_option, print_json, print_table, say, when
from scheduler.cli.picture_recipe import is_picture, print_picture_recipe
from scheduler.cli.reading import services_to_find, services_to_read
from scheduler.results.outlook import outlook
from scheduler.services import Services
from storage.rules.states import RENDER_STATES, State

if TYPE_CHECKING:
    from storage.renders.views import JobView, RenderView
    from storage.rules.render_times import RenderTimes

_JOB_COLUMNS = ("JOB", "STATE", "SEED", "SIZE", "ATTEMPT", "WORKER", "PROMPT", "FAULT", "ERROR", "REMARKS")
#: Column → what it says of a job.
_SOME_HAVE: "Mapping[str, Callable[[JobView], str | None]]" = {
    "CUSTOM_ID": lambda job: job.custom_id,
    "LABELS": lambda job: shown_labels(job.labels),
    "PIXELS": lambda job: job.pixels_sha256,
}


@click.command()
@click.argument("render_id", metavar="[RENDER]", required=False)
@json_option
def status(render_id: str | None, as_json: bool) -> None:
    """Show the state of a render, or list the latest renders."""
    services = services_to_read() if render_id is None else services_to_find(render_id)
    views = services.views
    if render_id is None:
        if (renders := views.renders()) or as_json:
            print_renders(renders, as_json=as_json)
        else:
            click.echo('no renders yet; try: farm render "a large red star on a blue background"')
        return
    render = services.find_render(render_id)
    render_id = render.id
    if as_json:
        print_json(shown_render(services, render))
        return
    click.echo(
        f"render {render.id}{called(render)} of {render.owner}: {render.state}\n"
        f"{render.done} done, {render.failed} failed, {render.cancelled} cancelled, {render.remaining} to go, "
        f"of {render.total}\n"
        f"submitted {when(render.created_at)}, priority {render.priority.name.lower()}"
        + (f", took {duration(render.finished_at - render.created_at)}" if render.finished_at else "")
    )
    if render.times is not None:
        click.echo(_times_of(render.times))
    if render.note is not None:
        click.echo(f"note: {render.note}")
    if (why := outlook(services, render)["why"]) is not None:
        click.echo(f"waits: {why}")
    # Not queried when there are none: that would scan a million jobs.
    for job in views.jobs(render_id, state=State.FAILED, limit=5) if render.failed else ():
        click.echo(f"failed: {job.id}: {job.error}")


@click.command("list")
@click.option("--owner", metavar="NAME", help="Only renders of this owner (default: all owners).")
@click.option("--state", type=click.Choice(RENDER_STATES), help="Only renders in this state.")
@click.option("--model", metavar="ALIAS", help="Only renders with pictures of this model.")
@label_option
@click.option(
    "--since", type=Since(), metavar="TIME", help="Submitted since then: 12h, 2d, or a date such as 2026-11-28."
)
@click.option("-n", "most", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
def list_(
    owner: str | None,
    state: str | None,
    model: str | None,
    labels: Sequence[str],
    since: "Callable[[float], float] | None",
    most: int,
    as_json: bool,
) -> None:
    """List renders, newest first."""
    # Not above: a list without filters needs none of it.
    from storage.renders.filters import RenderFilter

    wanted = read_labels(labels)
    services = services_to_read()
    moment = None if since is None else since(time.time())
    which = RenderFilter(owner=owner, state=state, model=model, labels=wanted, since=moment)
    renders = services.views.renders(limit=most, which=which)
    if model is not None and not renders:
        services.registry[model]
    if renders or as_json:
        print_renders(renders, as_json=as_json)
    else:
        say("no such renders" if which != RenderFilter() else "no renders yet")


def print_renders(renders: "Sequence[RenderView]", *, as_json: bool) -> None:
    """Print renders as a table; without the column of names where none has one."""
    if as_json:
        print_json([render_fields(render) for render in renders])
        return
    named = any(render.name is not None for render in renders)
    print_table(
        [
            *("RENDER", "STATE", "DONE", "FAILED", "CANCELLED", "TOTAL", "OWNER", "PRIORITY", "SUBMITTED"),
            *(["NAME"] if named else []),
        ],
        (
            (
                *(render.id, render.state, render.done, render.failed, render.cancelled, render.total, render.owner),
                *(render.priority.name.lower(), when(render.created_at)),
                *([render.name] if named else []),
            )
            for render in renders
        ),
    )


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Show only jobs in this state.")
@label_option
@json_option
def jobs(render_id: str, state: str | None, labels: Sequence[str], as_json: bool) -> None:
    """List the jobs of a render, one per picture."""
    # As above.
    from storage.renders.filters import JobFilter

    which = JobFilter(labels=read_labels(labels))
    services = services_to_find(render_id)
    render = services.find_render(render_id)
    found = services.views.jobs(render.id, state=None if state is None else State(state), which=which)
    if as_json:
        print_json([job_fields(job) for job in found])
        return
    print_jobs(list(found))


def print_jobs(found: "Sequence[JobView]") -> None:
    """Print jobs as a table; without columns for what none of them has."""
    columns = [*_JOB_COLUMNS, *(column for column in _SOME_HAVE if any(_SOME_HAVE[column](job) for job in found))]
    print_table(
        columns,
        (
            (
                *(job.id, job.state, job.spec.seed, f"{job.spec.width}×{job.spec.height}", job.attempt, job.worker),
                job.spec.prompt if len(job.spec.prompt) <= 60 else job.spec.prompt[:59] + "…",
                *(job.fault, job.error, "; ".join(job.remarks)),
                *(_SOME_HAVE[column](job) for column in columns[len(_JOB_COLUMNS) :]),
            )
            for job in found
        ),
    )


@click.command()
@click.argument("name", metavar="JOB|RENDER")
@json_option
def why(name: str, as_json: bool) -> None:
    """Say why a job waits, or what became of it, and which rule decides.

    Of a render it is said for the job that is claimed next; where none waits, for its first one.
    """
    from scheduler.results.why_job import why_job

    services = services_to_find(name)
    views = services.views
    if is_job(name):
        job = services.find_job(name)
    else:
        render = services.find_render(name)
        job = views.next_waiting(render.id) or next(iter(views.jobs(render.id, limit=1)))
    reason = why_job(services, job)
    if as_json:
        print_json({"id": job.id, "state": job.state, "why": reason.sentence, "rules": list(reason.rules)})
        return
    click.echo(f"{job.id}: {reason.sentence}")
    for rule in reason.rules:
        click.echo(f"rule: {rule}")


@click.command()
@click.argument("job_id", metavar="JOB|PICTURE")
@json_option
def recipe(job_id: str, as_json: bool) -> None:
    """Show everything needed to reproduce a picture.

    That is its specification, seed, library versions, device, and the calls of the model or the batch. Of a picture's
    file (PNG, JPEG or WebP), it is what the file says, whether the farm, the web UI, ComfyUI or InvokeAI wrote it.
    """
    if is_picture(job_id):
        print_picture_recipe(Path(job_id), as_json=as_json)
        return
    services = services_to_find(job_id)
    views = services.views
    job = services.find_job(job_id)
    fields: dict[str, Any] = {"id": job.id, "state": job.state, "spec": job.spec.fields()}
    if job.batch_id is not None:
        batch = views.batch(job.batch_id)
        made_with, size = batch.recipe_with(job.own_recipe), len(batch.job_row_ids)
        # Of what went through slots, its calls say it all, and neighbours do not matter.
        by_slots = "calls" in made_with
        fields |= {
            "made_with": made_with,
            "batch": None if by_slots else {"size": size, "position": batch.job_row_ids.index(job.row_id)},
            "worker": batch.worker,
            "render_seconds": round(batch.render_seconds / (size if by_slots else 1), 3),
            "object": job.object,
            "sha256": job.sha256,
            "pixels_sha256": job.pixels_sha256,
            "remarks": list(job.remarks),
        }
    if as_json:
        print_json(fields)
    else:
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))


def _times_of(times: "RenderTimes") -> str:
    from scheduler.intake.moments import in_zone

    parts = [] if times.not_before is None else [f"not before {in_zone(times.not_before, times.timezone)}"]
    parts += [] if times.window is None else [f"only within {times.window} ({times.timezone})"]
    return f"rendered {', '.join(parts)}"


def render_fields(render: "RenderView", **more: Any) -> dict[str, Any]:
    """Return the JSON form of a render."""
    # Imported here, as below: tables do without the forms' models.
    from scheduler.results.json_forms import RenderForm

    return RenderForm.of(render, **more).model_dump(mode="json")


def shown_render(services: Services, render: "RenderView") -> dict[str, Any]:
    """Return the JSON form of a single render, with what to expect of it."""
    return render_fields(render, **outlook(services, render))


def job_fields(job: "JobView") -> dict[str, Any]:
    """Return the JSON form of a job."""
    from scheduler.results.json_forms import JobForm

    return JobForm.of(job).model_dump(mode="json")
