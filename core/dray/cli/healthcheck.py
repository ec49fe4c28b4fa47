"""`dray healthcheck`: say whether the worker beside us is well, by its heartbeat file. Connects to nothing."""

from __future__ import annotations

import json
import os

import click

from .command import command, option
from .exits import FAILURE, OK, USAGE
from .option_values import seconds
from .process.heartbeat import MAX_AGE, examine


@command(
    "healthcheck",
    codes={
        OK: "the worker is alive; with --ready: and takes in work",
        FAILURE: "it is not, or there is no heartbeat file",
        USAGE: "wrong options, or no heartbeat file is named",
    },
    examples=[
        ("dray -A shop.tasks worker --heartbeat-file /run/dray.json", "a worker that writes a heartbeat"),
        ("dray healthcheck --heartbeat-file /run/dray.json", "is it alive? For liveness probes and HEALTHCHECK"),
        ("dray healthcheck --heartbeat-file /run/dray.json --ready", "does it take in work? For readiness probes"),
    ],
)
@option(
    "--heartbeat-file",
    "path",
    metavar="PATH",
    envvar="DRAY_WORKER_HEARTBEAT_FILE",
    help="The file that the worker writes; %h in it stands for the host.  [env var: DRAY_WORKER_HEARTBEAT_FILE]",
)
@option(
    "--max-age",
    metavar="SECONDS",
    callback=seconds,
    help="Without a heartbeat for so long it is taken for dead.",
    default_text=f"{MAX_AGE:.0f}",
)
@option("--ready", is_flag=True, help="Ask whether it takes in work, too: it has started and its broker is there.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def healthcheck(ctx: click.Context, /, path: str | None, max_age: float | None, ready: bool, as_json: bool) -> None:
    """Say whether a worker on this machine is well. Needs no app and no broker.

    A worker whose broker is away, or that is paused, or about to stop, is alive, but not ready. One that hangs is not.
    """
    health = examine(_path(ctx, path), MAX_AGE if max_age is None else max_age)
    passed = health.ready if ready else health.alive
    if as_json:
        found = health.heartbeat._asdict() if health.heartbeat is not None else None
        facts = {"ok": passed, "alive": health.alive, "ready": health.ready, "reason": health.reason}
        click.echo(json.dumps({**facts, "heartbeat": found}))
    elif passed:
        click.echo(health.reason)
    else:
        lead = click.style("not ready:" if health.alive else "not alive:", fg="red", bold=True)
        click.echo(f"{lead} {health.reason}", err=True)
    ctx.exit(OK if passed else FAILURE)


def _path(ctx: click.Context, path: str | None) -> str:
    if path is None:
        from ..settings import Settings

        path = Settings.load().worker_heartbeat_file
    if not path:
        ctx.fail("which worker? Name the file that it writes: --heartbeat-file PATH, or DRAY_WORKER_HEARTBEAT_FILE")
    from .process.node_names import worker_path

    return os.path.abspath(worker_path(path, None))
