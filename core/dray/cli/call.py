"""`dray call`: send a task."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ..errors import UnknownTask
from .command import command, option
from .exits import USAGE, Stop
from .option_values import instant, json_of, seconds, seconds_or_instant
from .session import Session

if TYPE_CHECKING:
    from ..app import Dray

#: Read arguments: also those of a schedule.
ARGS = json_of(list, "a list in quotes, --args '[1, \"two\"]', or name a file, --args @args.json")
KWARGS = json_of(dict, "an object in quotes, --kwargs '{\"x\": 1}', or name a file, --kwargs @kwargs.json")


@command(
    "call",
    examples=[
        ("dray -A shop.tasks call shop.tasks.add --args '[1, 2]'", "send a task of this app; its id is printed"),
        ("dray call shop.tasks.add --args '[1, 2]' --wait", "send by name, without the code; print the result"),
        (
            'dray call shop.report --kwargs \'{"day": "today"}\' -Q slow --countdown 5m',
            "on that queue, in five minutes",
        ),
        (
            "dray call shop.import --args @rows.json --expires 1h",
            "arguments from a file; not to be begun after an hour",
        ),
    ],
)
@click.argument("name")
@option(
    "--args",
    "-a",
    "args",
    metavar="JSON",
    callback=ARGS,
    help="Positional arguments: a JSON list, @FILE, - (stdin).",
)
@option("--kwargs", "-k", "kwargs", metavar="JSON", callback=KWARGS, help="Arguments by name: a JSON object, @FILE, -.")
@option("-Q", "--queue", metavar="NAME", help="The queue.", default_text="the task's own")
@option("--exchange", metavar="NAME", help="Instead of a queue: whichever is bound to this exchange in task_queues.")
@option("--routing-key", metavar="KEY", help="With --exchange, or for the default exchange.")
@option("--key", metavar="KEY", help="Whom it is about, for brokers that keep the order of a key, or give keys turns.")
@option("--countdown", metavar="SECONDS", callback=seconds, help="Not to be begun before that is over: 90, 5m, 1h30m.")
@option("--eta", metavar="TIME", callback=instant, help="Not to be begun before this ISO time; without a zone: UTC.")
@option(
    "--expires",
    metavar="SECONDS|TIME",
    callback=seconds_or_instant,
    help="Not to be begun after that: 5m, or a time.",
)
@option(
    "--priority", metavar="0-9", type=click.IntRange(0, 9), help="9 is the most urgent.", default_text="the task's own"
)
@option("--task-id", metavar="ID", help="An id of your own. While it waits or runs, sending it again changes nothing.")
@option("--wait", is_flag=True, help="Wait for the end, and print the result as JSON.")
@option("--timeout", metavar="SECONDS", callback=seconds, help="With --wait: give up after that.", default_text="never")
@click.pass_obj
def call(
    session: Session,
    /,
    name: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    wait: bool,
    timeout: float | None,
    **options: float | datetime | str | int | None,
) -> None:
    """Send a task and print its id; with --wait, its result.

    With -A the task must be one of the app's: its own queue and options apply, and its arguments are checked. Without
    -A anything is sent, by name.
    """
    app = session.app_with_tasks()
    if session.app_place and name not in app.tasks:
        try:
            app.tasks[name]
        except UnknownTask as error:
            raise Stop(f"{error} Without -A (and DRAY_APP) any name can be sent.", USAGE) from None
    _check_shared(app)
    given: Any = {option: value for option, value in options.items() if value is not None}
    result = app.send_task(name, args or (), kwargs, **given)
    if not wait:
        click.echo(result.id)
        return
    from .result import end_with, wait_for

    click.echo(f"sent {result.id}, waiting for its end", err=True)
    wait_for(result, timeout)
    end_with(result)


def _check_shared(app: Dray) -> None:
    """Refuse to send where nobody else can ever see it."""
    if not app.conf.task_always_eager and not app.broker.capabilities.shared:
        raise Stop(
            f"nothing sent: {app.broker.url} lives and dies with this process, and nobody else can see into it. "
            "Name a broker that processes share, with --url or DRAY_BROKER_URL.",
            USAGE,
        )
