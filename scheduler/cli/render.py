"""Commands that make pictures: `farm render`, `retry`, `rerender`; and `farm cancel`, which makes fewer."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click

from scheduler.asked import Asked, numbered, with_defaults
from scheduler.cli.look import render_fields
from scheduler.cli.output import counted, json_option, print_json, say
from scheduler.cli.sheet import write_sheet
from scheduler.cli.wait import reachable_broker, report, report_accepted, see_through
from scheduler.compare import changed, compare
from scheduler.download import prepare_folder
from scheduler.inputs import upload_all, with_references
from scheduler.manifests import names_inputs, read_manifest
from scheduler.services import open_services
from scheduler.submit import Accepted, call_workers, noting, quanta, specify, submit
from storage.claims import Submission
from storage.errors import BadSpecification, InvalidInput
from storage.settings import read_settings
from storage.spec import Request
from storage.states import Priority, State

_PRIORITIES = [priority.name.lower() for priority in reversed(Priority)]


@click.command()
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--prompts", "file", type=click.Path(path_type=Path), help="A .txt, .jsonl or .csv file of prompts.")
@click.option("--model", metavar="ALIAS", help="A model of the registry (`farm models`).")
@click.option("-n", "pictures_each", type=click.IntRange(min=1), default=1, help="Pictures per prompt.")
@click.option("--seed", type=int, help="Seed of the first picture; the next ones count up. Default: drawn, recorded.")
@click.option("--width", type=int)
@click.option("--height", type=int)
@click.option("--steps", "num_inference_steps", type=int, help="Denoising steps.")
@click.option("--guidance", "guidance_scale", type=float, help="Guidance scale; 1 or less switches guidance off.")
@click.option("--negative", "negative_prompt", metavar="TEXT", help="What to steer away from.")
@click.option("--sampler", metavar="NAME", help='Such as DDIM, "Euler a" or "DPM++ 2M Karras".')
@click.option("--eta", type=float, help="DDIM's η, 0 to 1.")
@click.option("--clip-skip", type=int, metavar="N", help="Leave out the text encoder's last N layers.")
@click.option("--weighting", "prompt_weighting", type=click.Choice(["compel"]), help="Weigh words: (red)1.4.")
@click.option("--control", "control_images", multiple=True, metavar="IMAGE", help="An image for each ControlNet.")
@click.option("--control-scale", "controlnet_conditioning_scale", type=float, multiple=True, metavar="S")
@click.option("--control-start", "control_guidance_start", type=float, multiple=True, metavar="SHARE")
@click.option("--control-end", "control_guidance_end", type=float, multiple=True, metavar="SHARE")
@click.option("--guess-mode", is_flag=True, default=None, help="Let the ControlNet guess without the prompt.")
@click.option("--embeds", "prompt_embeds", metavar="FILE", help="Embeddings (safetensors) in place of a prompt.")
@click.option("--lora", "loras", multiple=True, metavar="ALIAS=SCALE", help="A LoRA of the registry; several add up.")
@click.option("--original-size", type=(int, int), metavar="HEIGHT WIDTH", help="SDXL's micro-conditioning.")
@click.option("--crop", "crops_coords_top_left", type=(int, int), metavar="TOP LEFT", help="SDXL's micro-conditioning.")
@click.option("--target-size", type=(int, int), metavar="HEIGHT WIDTH", help="SDXL's micro-conditioning.")
@click.option("--prior-steps", "prior_num_inference_steps", type=int, help="Steps of Kandinsky's prior.")
@click.option("--prior-guidance", "prior_guidance_scale", type=float, help="Guidance of Kandinsky's prior.")
@click.option("--priority", type=click.Choice(_PRIORITIES), default="normal", show_default=True)
@click.option("--owner", metavar="NAME", help="Whose render this is (FARM_OWNER; default the user's name).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Write a contact sheet (PNG) as well.")
@click.option("--no-wait", is_flag=True, help="Submit and return; the id is printed.")
@json_option
@click.pass_context
def render(
    context: click.Context,
    /,
    prompts: Sequence[str],
    file: Path | None,
    pictures_each: int,
    seed: int | None,
    priority: str,
    owner: str | None,
    out: Path | None,
    sheet: Path | None,
    no_wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Render pictures from prompts, given here or in a file whose rows may set any field of the specification."""
    if not prompts and file is None and not options["prompt_embeds"]:
        raise click.UsageError('nothing to render: give a prompt, as in farm render "a red star", or --prompts FILE')
    if sheet is not None and no_wait:
        raise click.UsageError("--sheet needs the pictures: leave out --no-wait, or make it later with `farm sheet`")
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    defaults = _checked_options({name: value for name, value in options.items() if value not in (None, ())}, seed)
    services = open_services(settings)
    if defaults.get("model"):
        services.registry[defaults["model"]]
    tickets = reachable_broker(services)
    if out is not None:
        prepare_folder(out)
    if sheet is not None:
        prepare_folder(sheet.absolute().parent, option="--sheet")
    services.objects.check()
    if settings.embedded and (left := services.views.unfinished_jobs()):
        say(
            f"{counted(left, 'job')} of earlier renders still to go, rendered too (`farm status`, `farm cancel RENDER`)"
        )
    known: dict[str, str | BadSpecification] = {}
    if defaults.keys() & {"control_images", "prompt_embeds"} or (file is not None and names_inputs(file)):
        known = upload_all(services.objects, with_defaults(_requests(prompts, file, defaults), defaults))
    requests = with_references(with_defaults(_requests(prompts, file, defaults), defaults), known)
    specs = specify(requests, services.registry, pictures_each=pictures_each, seed=seed)
    noted: Counter[str] = Counter()
    accepted = submit(
        services.jobs,
        services.registry,
        tickets,
        noting(specs, services.registry, noted),
        Submission(owner=settings.owner, priority=Priority[priority.upper()]),
    )
    for remark, pictures in noted.items():
        say(f"{remark} ({counted(pictures, 'picture')})")
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    if sheet is not None and outcome.render.done:
        write_sheet(services, accepted.render_id, sheet)
    context.exit(outcome.exit_code)


@click.command()
@click.argument("render_id", metavar="RENDER")
@json_option
def cancel(render_id: str, as_json: bool) -> None:
    """Cancel what is not finished of a render. Pictures that are done stay. Harmless to repeat."""
    services = open_services(read_settings())
    services.views.render(render_id)
    cancelled = services.jobs.cancel(render_id)
    after = services.views.render(render_id)
    if as_json:
        print_json({"render": render_id, "state": after.state, "cancelled": cancelled})
    elif cancelled:
        click.echo(
            f"cancelled {counted(cancelled, 'job')} of render {render_id}; {counted(after.done, 'picture')} done before"
        )
    else:
        click.echo(f"render {render_id} is {after.state} already, nothing to cancel")


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Download the pictures to this folder.")
@click.option("--no-wait", is_flag=True, help="Queue the jobs and return.")
@json_option
@click.pass_context
def retry(context: click.Context, render_id: str, out: Path | None, no_wait: bool, as_json: bool) -> None:
    """Render the failed jobs of a render again, with the same seeds."""
    services = open_services(read_settings())
    services.views.render(render_id)
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
    call_workers(services.jobs, services.registry, tickets, models)
    accepted = Accepted(render_id=render_id, models=tuple(models))
    if no_wait:
        report_accepted(services, accepted, as_json=as_json, called=tickets is not None)
        return
    outcome = see_through(services, accepted, out=out)
    report(services, outcome, as_json=as_json)
    context.exit(outcome.exit_code)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@click.pass_context
def rerender(context: click.Context, job_id: str, as_json: bool) -> None:
    """Make a picture again, in the company in which it was made, and say whether it is identical."""
    settings = read_settings()
    services = open_services(settings)
    job = services.views.job(job_id)
    if job.state is not State.DONE or job.batch_id is None or job.object is None:
        raise InvalidInput(f"job {job_id} is {job.state}: only a picture that was made can be made again")
    batch = services.views.batch(job.batch_id)
    position = batch.job_row_ids.index(job.row_id)
    services.registry[job.spec.model]
    before = services.objects.get(job.object)
    again = submit(
        services.jobs,
        services.registry,
        reachable_broker(services),
        services.views.specs(batch),
        Submission(owner=settings.owner, priority=Priority.INTERACTIVE, together=True),
    )
    see_through(services, again)
    twin = services.views.job(f"{again.render_id}-{position}")
    if twin.object is None:
        raise InvalidInput(f"the twin of job {job_id}, job {twin.id}, is {twin.state}: {twin.error}")
    verdict = compare(before, services.objects.get(twin.object))
    why = changed(batch.recipe, services.views.batch(twin.batch_id).recipe) if twin.batch_id else []
    if as_json:
        sums = [job.sha256, twin.sha256]
        print_json({"job": job.id, "again": twin.id, "sha256": sums, **verdict.fields(), "changed": why})
    else:
        click.echo(f"{twin.id} is {verdict.words()} {job.id} (rendered in a batch of {len(batch.job_row_ids)})")
        for change in why:
            click.echo(f"made with another {change}")
    context.exit(0 if verdict.identical else 1)


def _checked_options(options: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """The command line's options as fields for rows that lack them. Raises BadSpecification."""
    if "loras" in options:
        options = {**options, "loras": ",".join(options["loras"])}
    checked = Request.parse({"prompt": "-", **options, **({} if seed is None else {"seed": seed})})
    return checked.model_dump(exclude_none=True, exclude={"prompt", "seed"})


def _requests(prompts: Sequence[str], file: Path | None, defaults: Mapping[str, Any]) -> Iterator[Asked]:
    """What was asked for: each prompt given, then each row of the file, or else embeddings alone."""
    typed = numbered(Request.parse({"prompt": prompt}) for prompt in prompts)
    if file is not None:
        return chain(typed, read_manifest(file))
    return typed if prompts else numbered([Request.parse({"prompt_embeds": defaults["prompt_embeds"]})])
