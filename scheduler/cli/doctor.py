"""`farm doctor`."""

import click

from scheduler.cli.output import json_option, print_json
from scheduler.local import doctor as examination
from scheduler.local.doctor import Grade
from storage.settings import read_settings

_MARKS = {Grade.GOOD: "✓", Grade.WARNING: "!", Grade.BROKEN: "✗"}


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check every setting and service, and suggest fixes.

    Exits with 3 if something is broken.
    """
    findings = []
    for finding in examination.examine(read_settings()):
        findings.append(finding)
        if not as_json:
            # Each when it is known: a service that does not answer takes seconds.
            click.echo(f"{_MARKS[finding.grade]} {finding.what:<9} {finding.words}")
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    context.exit(3 if any(finding.grade is Grade.BROKEN for finding in findings) else 0)
