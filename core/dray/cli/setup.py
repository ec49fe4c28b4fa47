"""`dray setup`: create what workers and senders need, so that they can do without the right to create it."""

from __future__ import annotations

import click

from .command import command, option
from .option_values import names
from .queues import served_queues
from .session import Session
from .tables import printable, show_json

#: The queue through which `dray doctor` sends its messages. It is always the same one: many servers keep every queue.
DOCTORS_QUEUE = "dray.doctor"


@command(
    "setup",
    examples=[
        ("dray -A shop.tasks setup", "queues and tables for everything that the app's tasks use"),
        ("dray --url sqlite:///shop.db setup -Q default,mail", "for these queues, without the app's code"),
    ],
)
@option(
    "-Q",
    "--queues",
    metavar="NAMES",
    multiple=True,
    callback=names,
    help="The queues to create.",
    default_text="all that the app's tasks and task_queues name",
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def setup(session: Session, queues: list[str], as_json: bool) -> None:
    """Create queues, tables and indexes on the broker, for results and in the store, with the rights at hand.

    Run by somebody who may create things, it lets workers and senders do with less. Safe to run again: what is there
    stays as it is, and a table of an older dray is brought up to date.
    """
    app = session.app_with_tasks()
    made = {"broker": list(app.broker.setup([*(queues or served_queues(app)), DOCTORS_QUEUE]))}
    if app.backend is not None:
        made["results"] = list(app.backend.setup())
    if app.connections.records is not None:
        made["store"] = list(app.connections.records.setup())
    if as_json:
        show_json({"made": made})
        return
    sentences = [sentence for some in made.values() for sentence in some]
    for sentence in sentences:
        click.echo(printable(sentence))
    if not sentences:
        click.echo("Everything was there already.")
