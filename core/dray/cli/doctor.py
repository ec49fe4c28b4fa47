"""`dray doctor`: check that everything works, say what this broker can do, and advise."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..urls import mask
from .checkup import Checkup, examine
from .command import command, option
from .durations import short
from .exits import FAILURE, OK, UNREACHABLE
from .session import Session
from .tables import printable, show_json, show_support

if TYPE_CHECKING:
    from ..app import Dray


@command(
    "doctor",
    examples=[
        ("dray doctor", "check what DRAY_BROKER_URL, pyproject.toml or dray.toml name"),
        ("dray --url sqlite:///shop.db doctor", "check that broker, and what it can do"),
        ("dray -A shop.tasks doctor --json", "as the app sees it; for scripts"),
    ],
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(session: Session, as_json: bool) -> None:
    """Check that everything works, and show what this broker can do.

    Connects to the broker, the result backend and the store, sends a message through a queue of its own (dray.doctor)
    and takes it out again, stores and fetches a result, and changes a record. Nothing of yours is touched.
    """
    app = session.app_with_tasks()
    checkup = examine(app, with_tasks=bool(session.app_place))
    if as_json:
        show_json(_facts(checkup))
    else:
        _show(app, checkup)
    click.get_current_context().exit(exit_code(checkup))


def exit_code(checkup: Checkup) -> int:
    """Return the exit code: everything passed, something is out of reach, or something else is wrong."""
    if any(check.unreachable for check in checkup.checks):
        return UNREACHABLE
    return OK if checkup.healthy else FAILURE


def _show(app: Dray, checkup: Checkup) -> None:
    click.echo(f"{click.style(f'dray {__version__}', bold=True)}  Python {platform.python_version()}\n")
    width = max(len(check.name) for check in checkup.checks)
    for check in checkup.checks:
        mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red", bold=True)
        took = f"  ({short(check.seconds)})" if check.seconds is not None else ""
        text = printable(mask(check.detail))
        click.echo(f"{mark}  {check.name:<{width}}  {text}{click.style(took, dim=True)}")
    if checkup.support:
        click.echo(f"\n{click.style('What this broker can do', bold=True)}")
        show_support(checkup.support)
    if checkup.advice:
        click.echo(f"\n{click.style('Advice', bold=True)}")
        for advice in checkup.advice:
            click.echo(f"- {printable(mask(advice))}")
    click.echo()
    if checkup.healthy:
        click.echo(click.style("All is well.", fg="green") if not checkup.advice else "All checks pass.")
    else:
        failed = ", ".join(check.name for check in checkup.checks if not check.ok)
        click.echo(f"{click.style('Not well:', fg='red', bold=True)} {failed}")


def _facts(checkup: Checkup) -> dict[str, Any]:
    return {
        "ok": checkup.healthy,
        "dray": __version__,
        "python": platform.python_version(),
        "checks": [
            {"name": check.name, "ok": check.ok, "detail": mask(check.detail), "seconds": check.seconds}
            for check in checkup.checks
        ],
        "support": [row._asdict() for row in checkup.support],
        "advice": [mask(advice) for advice in checkup.advice],
    }
