"""`farm`: the entry point. Errors become one clear line and an exit code here, and nowhere else.

Exit codes: 0 all done, 1 some jobs failed, 2 wrong usage or input, 3 a service cannot be reached.
"""

import os
import sys

import click

from scheduler.cli.api import api, keys, webhooks
from scheduler.cli.doctor import doctor
from scheduler.cli.export import export
from scheduler.cli.faults import faults, workers
from scheduler.cli.models import models
from scheduler.cli.processes import db, scheduler, up
from scheduler.cli.purge import purge, usage
from scheduler.cli.render import cancel, hold, release, render, rerender, retry
from scheduler.cli.schedule import schedule
from scheduler.cli.sheet import sheet
from scheduler.cli.status import jobs, recipe, status
from scheduler.cli.upload import upload
from storage.errors import FarmError, ServiceProblem

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_HELP)
@click.version_option(package_name="diffusion-farm")
def cli() -> None:
    """Render pictures from prompts on a farm of devices.

    \b
    farm render "a large red star on a blue background"
    farm render --prompts prompts.jsonl --out pictures

    With no address set (FARM_DATABASE_URL, FARM_BROKER_URL, FARM_OBJECTS_URL) everything runs on this machine.
    """


for _command in (
    *(render, status, jobs, cancel, hold, release, retry, recipe, rerender, sheet, export, upload),
    *(schedule, purge, usage, models, workers, faults, doctor, api, keys, webhooks, up, scheduler, db),
):
    cli.add_command(_command)


def main() -> None:
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FarmError as error:
        click.echo(f"farm: {error}", err=True)
        code = 3 if isinstance(error, ServiceProblem) else 2
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone, as `farm status | head` does; Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
