"""`dray dead edit`: send a dead letter's message again with other arguments, to another task or to another queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..urls import nearest
from .command import command, option
from .exits import USAGE, Stop
from .option_values import json_of, names
from .queues import known_queues
from .result import plain
from .session import Session

if TYPE_CHECKING:
    from ..app import Dray
    from ..dead_letters import DeadLetter

_ARGS = json_of(list, "a list in quotes, --args '[1, \"two\"]', or name a file, --args @args.json")
_KWARGS = json_of(dict, "an object in quotes, --kwargs '{\"x\": 1}', or name a file, --kwargs @kwargs.json")


@command(
    "edit",
    examples=[
        ("dray dead edit ID", "in your editor ($EDITOR), then run it again"),
        ("dray dead edit ID --kwargs '{\"order\": 7}'", "with these arguments by name, the others gone"),
        ('dray dead edit ID --args \'["me", "***"]\'', "a hidden argument stays what it was"),
        ("dray dead edit ID --queue slow", "as it is, in another queue"),
    ],
)
@click.argument("id")
@option(
    "-Q", "--queues", metavar="NAMES", multiple=True, callback=names, help="Only in these queues.", default_text="all"
)
@option(
    "--args", "-a", "args", metavar="JSON", callback=_ARGS, help="The arguments by position: a JSON list, @FILE, -."
)
@option("--kwargs", "-k", metavar="JSON", callback=_KWARGS, help="The arguments by name: a JSON object, @FILE, -.")
@option("--task", metavar="NAME", help="Another task.", default_text="the same")
@option("--queue", metavar="NAME", help="Another queue.", default_text="the one it was buried in")
@option("--priority", metavar="0-9", type=click.IntRange(0, 9), help="Another priority.", default_text="the same")
@click.pass_obj
def edit(session: Session, /, id: str, queues: list[str], **changes: Any) -> None:
    """Send a dead letter's message again, changed: by the options, or else in your editor. Its id is printed.

    It keeps its id, and its state is PENDING again. What is left as it is shown stays as it was sent, arguments shown
    as *** among it. A message that is signed or encrypted is sealed anew. Killed in the middle, the letter is still
    there.
    """
    app = session.app_with_tasks()
    chosen = queues or known_queues(app)
    given = {word: value for word, value in changes.items() if value is not None}
    found = app.dead_letters.find([id], chosen)
    if len(found) == 1 and found[0].message is not None:
        shown = _shown(app, found[0])
        given = given or _by_hand(shown)
        if not given:
            click.echo("Nothing is changed, and nothing sent.", err=True)
            return
        given = {word: _as_sent(app, found[0], shown, word, value) for word, value in given.items()}
    if (task := given.get("task")) and session.app_place and task not in app.tasks:
        raise Stop(f"no task named {task!r}{nearest(task, app.tasks) or '.'} Nothing is sent.", USAGE)
    try:
        click.echo(app.dead_letters.edit(id, chosen, **given).id)
    except LookupError as error:
        raise Stop(f"{error.args[0]} in {', '.join(chosen) or 'any queue'}") from None


def _by_hand(shown: dict[str, Any]) -> dict[str, Any]:
    """Have what is shown changed in an editor; return what is changed, and nothing when nothing is."""
    text = click.edit(json.dumps(shown, indent=2, ensure_ascii=False) + "\n", extension=".json")
    if text is None:
        return {}
    try:
        after = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Stop(f"that is not JSON any more: {error}. Nothing is sent.", USAGE) from None
    if not isinstance(after, dict) or not after.keys() <= shown.keys():
        raise Stop(f"the file holds an object with {', '.join(shown)}. Nothing is sent.", USAGE)
    _check_kinds(after)
    return {word: value for word, value in after.items() if not _same(value, shown[word])}


def _check_kinds(after: dict[str, Any]) -> None:
    kinds = {"task": str, "queue": str, "priority": int, "args": list, "kwargs": dict}
    for word, value in after.items():
        if not isinstance(value, kinds[word]) or (word == "priority" and value not in range(10)):
            raise Stop(f"{word} cannot be {json.dumps(value)[:100]}. Nothing is sent.", USAGE)


def _shown(app: Dray, letter: DeadLetter) -> dict[str, Any]:
    """Return what can be changed, as JSON shows it; without the arguments when they cannot be shown."""
    message = letter.message
    assert message is not None
    shown: dict[str, Any] = {"task": message.task, "queue": letter.queue, "priority": message.priority}
    arguments = app.dead_letters.shown_arguments(letter)
    if arguments is not None:
        shown |= {"args": plain(arguments[0]), "kwargs": plain(arguments[1])}
    written: dict[str, Any] = json.loads(json.dumps(shown, default=repr))
    return written


def _as_sent(app: Dray, letter: DeadLetter, shown: dict[str, Any], word: str, value: Any) -> Any:
    """Return arguments, those that are left as JSON shows them as they are: JSON cannot write every value."""
    arguments = app.dead_letters.shown_arguments(letter)
    if word not in ("args", "kwargs") or arguments is None:
        return value
    if word == "args":
        seen, args = shown[word], arguments[0]
        return [args[n] if n < len(seen) and _same(one, seen[n]) else one for n, one in enumerate(value)]
    seen, kwargs = shown[word], {str(name): each for name, each in arguments[1].items()}
    return {name: kwargs[name] if name in seen and _same(one, seen[name]) else one for name, one in value.items()}


def _same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are written the same: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
