"""`farm agenda`: what will run when."""

import click

from scheduler.cli.output import duration, json_option, print_json, print_table, say
from scheduler.cli.reading import services_to_read
from scheduler.cron.agenda import MOST_DAYS, AgendaEntry, Agendas
from scheduler.intake.moments import in_zone
from storage.settings import read_settings


@click.command()
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=2, show_default=True, help="How many days to look ahead."
)
@click.option("--all", "everybodys", is_flag=True, help="Include all owners.")
@click.option("--owner", metavar="NAME", help="Whose agenda (default: FARM_OWNER, else your user name).")
@json_option
def agenda(days: int, everybodys: bool, owner: str | None, as_json: bool) -> None:
    """Show what will run when, for how long, and what does not fit its window."""
    settings = read_settings(owner=owner) if owner is not None else read_settings()
    found = Agendas(services_to_read(settings)).agenda(days=days, owner=None if everybodys else settings.owner)
    if as_json:
        print_json(found.model_dump())
        return
    for remark in found.remarks:
        say(remark)
    if not found.entries:
        click.echo(f"nothing is planned within {days} {'day' if days == 1 else 'days'}")
        return
    print_table(
        ["STARTS", "WHAT", "PLANNED", "PICTURES", "TAKES", "WINDOW", "REMARKS"], (_row(one) for one in found.entries)
    )


def _row(entry: AgendaEntry) -> tuple[object, ...]:
    planned = None if entry.at == entry.starts_at else in_zone(entry.at, entry.timezone)
    takes = "unknown" if entry.seconds is None else f"about {duration(entry.seconds)}"
    return (
        in_zone(entry.starts_at, entry.timezone),
        f"{entry.kind} {entry.name}",
        planned,
        entry.pictures,
        takes,
        entry.window,
        "; ".join(entry.remarks),
    )
