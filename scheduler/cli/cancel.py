"""Stop a render, for good or for a while: `farm cancel`, `farm hold`, `farm release`."""

import click

from scheduler.cli.filters import is_job
from scheduler.cli.output import counted, json_option, print_json
from scheduler.cli.reading import services_to_find
from scheduler.cli.status import render_fields
from scheduler.services import Services
from storage.renders.views import JobView


@click.command()
@click.argument("render_id", metavar="RENDER|JOB")
@json_option
def cancel(render_id: str, as_json: bool) -> None:
    """Cancel the unfinished jobs of a render, or one job.

    Finished pictures are kept. Idempotent.
    """
    services = services_to_find(render_id)
    if is_job(render_id):
        _cancel_job(services, services.find_job(render_id), as_json=as_json)
        return
    render_id = services.find_render(render_id).id
    cancelled = services.jobs.cancel(render_id)
    after = services.views.render(render_id)
    if as_json:
        print_json({"id": render_id, "state": after.state, "cancelled": cancelled})
    elif cancelled:
        click.echo(
            f"cancelled {counted(cancelled, 'job')} of render {render_id}; {counted(after.done, 'picture')} done"
        )
    else:
        click.echo(f"render {render_id} is already {after.state}; nothing to cancel")


def _cancel_job(services: Services, job: JobView, *, as_json: bool) -> None:
    cancelled = services.jobs.cancel_job(job.render_id, job.index)
    after = services.views.job(job.id)
    if as_json:
        print_json({"id": job.id, "state": after.state, "cancelled": int(cancelled)})
    else:
        click.echo(f"cancelled job {job.id}" if cancelled else f"job {job.id} is already {after.state}")


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def hold(render_id: str, as_json: bool) -> None:
    """Pause a render.

    Its queued jobs are held back; jobs that are already running finish. Idempotent.
    """
    services = services_to_find(render_id)
    render_id = services.find_render(render_id).id
    held = services.jobs.hold(render_id)
    if as_json:
        print_json({**render_fields(services.views.render(render_id)), "held": held})
    else:
        click.echo(f"held {counted(held, 'job')} of render {render_id}; resume with `farm release {render_id}`")


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def release(render_id: str, as_json: bool) -> None:
    """Resume a held render.

    Its held jobs go back into the queue. Idempotent.
    """
    # Imported here: only this command publishes tickets, and the other two do without Celery.
    from scheduler.cli.waiting import reachable_broker
    from scheduler.intake.submit import publish_tickets

    # All of them: what is wrong with a setting is said before anything changes.
    services = services_to_find(render_id).open_all()
    render_id = services.find_render(render_id).id
    released = services.jobs.release(render_id)
    publish_tickets(
        *(services.jobs, services.registry, reachable_broker(services)),
        services.jobs.best_waiting(services.registry.models),
    )
    if as_json:
        print_json({**render_fields(services.views.render(render_id)), "released": released})
    else:
        click.echo(f"released {counted(released, 'job')} of render {render_id}")
