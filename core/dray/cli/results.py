"""`dray results`: looking after the results that are kept."""

from __future__ import annotations

import click

from .command import group, option
from .session import Session
from .tables import show_json


@group("results", examples=[("dray results purge", "delete what has expired: for cron")])
def results() -> None:
    """Look after the results that are kept. What became of one task: `dray result ID`."""


@results.command(
    "purge",
    examples=[
        ("dray results purge", "delete what has expired"),
        ("dray results purge --json | jq .purged", "for scripts: how many there were"),
    ],
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def purge(session: Session, as_json: bool) -> None:
    """Delete results whose time is up (`result_expires`).

    Nobody sees them any more, but some databases keep them until somebody deletes them. Where the server itself
    does that there is never anything left to delete. Results that are still valid stay. With -A, the backends of tasks
    that have their own are looked through too.
    """
    count = sum(backend.purge() for backend in session.app_with_tasks().backends_for_reading())
    if as_json:
        show_json({"purged": count})
    else:
        click.echo(f"{count:,} expired result(s) deleted" if count else "No expired results to delete.")
