"""`farm`: the entry point. Errors become one clear line and an exit code here, and nowhere else.

Exit codes: 0 all done, 1 some jobs failed, 2 wrong usage or input, 3 a service cannot be reached.
"""

import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import click

from storage.errors import FarmError, ServiceProblem

_COLLECT_AFTER_OBJECTS = 50_000
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@dataclass(frozen=True, kw_only=True)
class LazyCommand:
    """A command whose module is imported when it is called."""

    #: Below `scheduler.cli`.
    module: str
    attribute: str
    #: The first sentence of its help: `farm --help` shows it without importing the command.
    help: str

    def load(self) -> click.Command:
        found = getattr(import_module(f"scheduler.cli.{self.module}"), self.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"scheduler.cli.{self.module}.{self.attribute} is not a command")
        return found


def _lazy(module: str, attribute: str, help: str) -> LazyCommand:  # noqa: A002 - as click calls it
    return LazyCommand(module=module, attribute=attribute, help=help)


#: Title → name → command, in the order in which `farm --help` lists them.
SECTIONS: Mapping[str, Mapping[str, LazyCommand]] = {
    "Renders": {
        "render": _lazy("render", "render", "Render pictures from prompts, a prompt file or templates."),
        "status": _lazy("status", "status", "Show the state of a render, or list the latest renders."),
        "list": _lazy("status", "list_", "List renders, newest first."),
        "jobs": _lazy("status", "jobs", "List the jobs of a render, one per picture."),
        "why": _lazy("status", "why", "Say why a job waits, or what became of it, and which rule decides."),
        "watch": _lazy("fetch", "watch", "Follow a render until it is finished."),
        "cancel": _lazy("cancel", "cancel", "Cancel the unfinished jobs of a render, or one job."),
        "hold": _lazy("cancel", "hold", "Pause a render."),
        "release": _lazy("cancel", "release", "Resume a held render."),
        "retry": _lazy("retry", "retry", "Render the failed jobs of a render again, with the same seeds."),
        "recipe": _lazy("status", "recipe", "Show everything needed to reproduce a picture."),
        "rerender": _lazy("retry", "rerender", "Reproduce a picture and compare it with the original."),
    },
    "Results": {
        "fetch": _lazy("fetch", "fetch", "Download the pictures of a render, to a folder or as one archive."),
        "sheet": _lazy("sheet", "sheet", "Draw a contact sheet of a render."),
        "grid": _lazy("grid", "grid", "Draw a grid of a render, labelled by the fields that differ."),
        "export": _lazy("export", "export", "Export the pictures of a render as a dataset."),
        "delete": _lazy("delete", "delete", "Delete a render with its pictures, or one picture of it."),
        "usage": _lazy("purge", "usage", "Show how much storage each owner uses."),
        "purge": _lazy("purge", "purge", "Delete old renders and their pictures, and old uploads that nothing needs."),
    },
    "Inputs and schedules": {
        "upload": _lazy("upload", "upload", "Upload conditioning images and embeddings."),
        "schedule": _lazy("schedule", "schedule", "Submit renders on a schedule."),
        "agenda": _lazy("agenda", "agenda", "Show what will run when, for how long, and what does not fit its window."),
    },
    "The farm": {
        "up": _lazy("processes", "up", "Run a whole farm on this machine until Ctrl-C."),
        "scheduler": _lazy("processes", "scheduler", "Run the scheduler process."),
        "api": _lazy("api", "api", "Serve the HTTP API, and the farm's page at its address."),
        "doctor": _lazy("doctor", "doctor", "Check every setting and service, and suggest fixes."),
        "models": _lazy("models", "models", "List the registered models."),
        "loras": _lazy("loras", "loras", "List the registered LoRAs."),
        "samplers": _lazy("samplers", "samplers", "List the samplers and schedules of noise levels."),
        "workers": _lazy("faults", "workers", "List the workers."),
        "faults": _lazy("faults", "faults", "Show recent faults."),
        "keys": _lazy("api", "keys", "Manage API keys."),
        "webhooks": _lazy("api", "webhooks", "Inspect and resend webhook messages."),
        "db": _lazy("processes", "db", "Manage the database schema."),
    },
}

COMMANDS: Mapping[str, LazyCommand] = {
    name: command for section in SECTIONS.values() for name, command in section.items()
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called: the libraries behind all of them take a second or two."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        found = COMMANDS.get(cmd_name)
        return None if found is None else found.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # Click suggests similar names among commands that were added to the group; ours are in the table.
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        widest = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), command.help) for name, command in commands.items()])


@click.group(cls=LazyGroup, context_settings=_HELP)
@click.version_option(package_name="diffusion-farm")
@click.pass_context
def cli(context: click.Context) -> None:
    """Render pictures from prompts on a farm of devices.

    \b
    farm render "a large red star on a blue background"
    farm render --prompts prompts.jsonl --out pictures

    With no address set (FARM_DATABASE_URL, FARM_BROKER_URL, FARM_OBJECTS_URL), everything runs on this machine.
    """
    # The doctor tells it among its findings.
    if context.invoked_subcommand != "doctor" and any(name.startswith("FARM_") for name in os.environ):
        from storage.settings import misspelt_settings

        for warning in misspelt_settings():
            click.echo(warning, err=True)


def main() -> None:
    # What imports create lives as long as the process. At the default threshold of 700 objects the collector looks
    # through all of it again and again: a sixth of the time until a command answers.
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
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
        # The reader of our output is gone, as with `farm status | head`; Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
