"""Commands that only look: `farm status`, `farm jobs`, `farm recipe`."""

import json
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.output import duration, json_option, print_json, print_table, when
from scheduler.results.outlook import outlook
from scheduler.services import Services, open_services
from storage.rules.states import State
from storage.settings import read_settings

if TYPE_CHECKING:
    from storage.renders.views import JobView, RenderView


@click.command()
@click.argument("render_id", metavar="[RENDER]", required=False)
@json_option
def status(render_id: str | None, as_json: bool) -> None:
    """Show the state of a render, or list the latest renders."""
    services = open_services(read_settings())
    views = services.views
    if render_id is None:
        renders = views.renders()
        if as_json:
            print_json([render_fields(render) for render in renders])
        elif renders:
            print_table(
                ["RENDER", "STATE", "DONE", "FAILED", "CANCELLED", "TOTAL", "OWNER", "PRIORITY", "SUBMITTED"],
                (
                    (
                        render.id,
                        render.state,
                        render.done,
                        render.failed,
                        render.cancelled,
                        render.total,
                        render.owner,
                        render.priority.name.lower(),
                        when(render.created_at),
                    )
                    for render in renders
                ),
            )
        else:
            click.echo('no renders yet; try: farm render "a large red star on a blue background"')
        return
    render = views.render(render_id)
    if as_json:
        print_json(shown_render(services, render))
        return
    click.echo(
        f"render {render.id} of {render.owner}: {render.state}\n"
        f"{render.done} done, {render.failed} failed, {render.cancelled} cancelled, {render.remaining} to go, "
        f"of {render.total}\n"
        f"submitted {when(render.created_at)}, priority {render.priority.name.lower()}"
        + (f", took {duration(render.finished_at - render.created_at)}" if render.finished_at else "")
    )
    if (why := outlook(services, render)["why"]) is not None:
        click.echo(f"waits: {why}")
    # Not queried when there are none: that would scan a million jobs.
    for job in views.jobs(render_id, state=State.FAILED, limit=5) if render.failed else ():
        click.echo(f"failed: {job.id}: {job.error}")


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Show only jobs in this state.")
@json_option
def jobs(render_id: str, state: str | None, as_json: bool) -> None:
    """List the jobs of a render, one per picture."""
    views = open_services(read_settings()).views
    views.render(render_id)
    found = views.jobs(render_id, state=None if state is None else State(state))
    if as_json:
        print_json([job_fields(job) for job in found])
        return
    print_table(
        ["JOB", "STATE", "SEED", "SIZE", "ATTEMPT", "WORKER", "PROMPT", "FAULT", "ERROR", "REMARKS"],
        (
            (
                job.id,
                job.state,
                job.spec.seed,
                f"{job.spec.width}×{job.spec.height}",
                job.attempt,
                job.worker,
                job.spec.prompt if len(job.spec.prompt) <= 60 else job.spec.prompt[:59] + "…",
                job.fault,
                job.error,
                "; ".join(job.remarks),
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

    services = open_services(read_settings())
    views = services.views
    if "-" in name:
        job = views.job(name)
    else:
        render = views.render(name)
        job = views.next_waiting(render.id) or next(iter(views.jobs(render.id, limit=1)))
    reason = why_job(services, job)
    if as_json:
        print_json({"id": job.id, "state": job.state, "why": reason.sentence, "rules": list(reason.rules)})
        return
    click.echo(f"{job.id} is {job.state}: {reason.sentence}")
    for rule in reason.rules:
        click.echo(f"rule: {rule}")


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
def recipe(job_id: str, as_json: bool) -> None:
    """Show everything needed to reproduce a picture.

    That is its specification, seed, library versions, device and batch.
    """
    views = open_services(read_settings()).views
    job = views.job(job_id)
    fields: dict[str, Any] = {"id": job.id, "state": job.state, "spec": job.spec.fields()}
    if job.batch_id is not None:
        batch = views.batch(job.batch_id)
        fields |= {
            "made_with": batch.recipe,
            "batch": {"size": len(batch.job_row_ids), "position": batch.job_row_ids.index(job.row_id)},
            "worker": batch.worker,
            "render_seconds": round(batch.render_seconds, 3),
            "object": job.object,
            "sha256": job.sha256,
            "pixels_sha256": job.pixels_sha256,
            "remarks": list(job.remarks),
        }
    if as_json:
        print_json(fields)
    else:
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))


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
