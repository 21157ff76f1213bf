"""`farm export`: write a render as a dataset."""

import time
from importlib import import_module

import click

from scheduler.cli.output import counted, duration, json_option, print_json, rate, size
from scheduler.cli.param_types import Size
from scheduler.cli.progress import amount_of
from scheduler.cli.reading import services_to_find
from scheduler.export.formats import Format
from scheduler.export.plan import Sharding
from scheduler.export.run import Export, Progress
from scheduler.export.targets import open_target
from storage.errors import BadSettings, InvalidInput
from storage.renders.exports import Exports
from storage.settings import read_settings

_FORMATS = ["webdataset", "parquet", "imagefolder"]
_SHARD_SIZE = 1000


@click.command()
@click.argument("render_id", metavar="RENDER")
@click.option("--format", "layout", type=click.Choice(_FORMATS), required=True, help="Layout of the dataset.")
@click.option("--to", required=True, metavar="DIR", help="Destination: a folder or s3://BUCKET/PREFIX.")
@click.option(
    "--shard-size",
    type=click.IntRange(min=1, max=100_000),
    metavar="N",
    help=f"Pictures per shard (default: {_SHARD_SIZE}).",
)
@click.option("--shard-bytes", type=Size(), metavar="SIZE", help="Bytes of pictures per shard instead, such as 1GB.")
@click.option("--follow", is_flag=True, help="Keep writing shards until the render finishes.")
@json_option
def export(
    render_id: str, layout: str, to: str, shard_size: int | None, shard_bytes: int | None, follow: bool, as_json: bool
) -> None:
    """Export the pictures of a render as a dataset.

    Each picture comes with its specification and recipe. An interrupted export resumes when the same command is run
    again. The same render always gives the same files.
    """
    if shard_size is not None and shard_bytes is not None:
        raise InvalidInput("--shard-size and --shard-bytes are mutually exclusive")
    format_ = _format(layout)
    settings = read_settings()
    services = services_to_find(render_id, settings)
    render = services.find_render(render_id)
    render_id = render.id
    started = time.monotonic()
    with amount_of(f"export of {render_id}", render.total, "pictures") as show:

        def show_progress(progress: Progress) -> None:
            show(progress.pictures + progress.failed + progress.cancelled)

        done = Export(
            views=services.views,
            objects=services.objects,
            exports=Exports(services.database),
            target=open_target(to, settings),
            render_id=render_id,
            format=format_,
            sharding=Sharding(pictures=None if shard_bytes else shard_size or _SHARD_SIZE, bytes=shard_bytes),
            follow=follow,
        ).run(show_progress)
    seconds = time.monotonic() - started
    if as_json:
        print_json(
            {
                "render": render_id,
                "format": layout,
                "to": to,
                "shards": done.shards,
                "pictures": done.pictures,
                "failed": done.failed,
                "cancelled": done.cancelled,
                "bytes": done.bytes,
                "seconds": round(seconds, 2),
            }
        )
        return
    click.echo(_summary(done, to, seconds))


def _summary(done: Progress, to: str, seconds: float) -> str:
    missing = {"failed": done.failed, "cancelled": done.cancelled}
    without = "".join(f", {number} {state}" for state, number in missing.items() if number)
    made = (
        f"{counted(done.pictures, 'picture')} ({size(done.bytes)}){without} in {counted(done.shards, 'shard')} in {to}"
    )
    return f"{made}, {rate(done.pictures / max(seconds, 0.001))} in {duration(seconds)}"


def _format(layout: str) -> Format:
    """Return the writer of a layout. Raises BadSettings if its libraries are not installed."""
    try:
        # Of the extra `datasets`. Only the one that is asked for: each brings libraries of its own.
        module = import_module(f"scheduler.export.{layout}")
    except ImportError:
        raise BadSettings(
            f'--format {layout} needs more packages; run `pip install "diffusion-farm[datasets]"`'
        ) from None
    found: Format = module.FORMAT
    return found
