"""Types: a type checker knows what a task takes and gives, and complains of a wrong argument."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

#: Each line that ends in "# type: X" reveals X there; each that ends in "# error: X" is an error of that kind.
SAMPLE = """
from __future__ import annotations

from typing import Any

from dray import AsyncResult, Dray, Task, current_app, shared_task

app = Dray("sample", broker="memory://", task_acks_late=True)


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(queue="mail", max_retries=5, autoretry_for=(OSError,), retry_backoff=[1, 2])
def mail(to: str, *, subject: str) -> None: ...


@app.task(bind=True, max_retries=3)
def bound(self: Task[Any, Any], path: str) -> bytes:
    reveal_type(self.request.id)  # type: str
    raise self.retry(countdown=5)


@app.task
async def fetch(url: str) -> list[str]:
    return [url]


@app.task(bind=True)
async def bound_fetch(self: Task[Any, Any], url: str) -> dict[str, int]:
    return {url: 1}


@shared_task
def shared(x: float) -> str:
    return str(x)


@shared_task(bind=True, name="x")
def shared_bound(self: Task[Any, Any], x: float) -> str:
    return str(x)


class Resize(Task[[int, int], float]):
    def run(self, width: int, height: int) -> float:
        return width / height


resize = app.register_task(Resize)


def sending() -> None:
    reveal_type(add.delay(1, 2))  # type: AsyncResult[int]
    reveal_type(add.delay(1, y=2).get(timeout=1))  # type: int
    reveal_type(add.apply_async((1,), countdown=5, queue="q", priority=9))  # type: AsyncResult[int]
    reveal_type(add.delay_many([(1, 2), {"x": 3}]))  # type: list[AsyncResult[int]]
    reveal_type(add(1, 2))  # type: int
    reveal_type(mail.delay("a", subject="b"))  # type: AsyncResult[None]
    reveal_type(bound.delay("p").get())  # type: bytes
    reveal_type(fetch.delay("u"))  # type: AsyncResult[list[str]]
    reveal_type(bound_fetch.delay("u"))  # type: AsyncResult[dict[str, int]]
    reveal_type(shared.delay(1.5))  # type: AsyncResult[str]
    reveal_type(shared_bound.delay(1.5))  # type: AsyncResult[str]
    reveal_type(resize.delay(1, 2))  # type: AsyncResult[float]
    reveal_type(app.send_task("far", (1,), expires=5))  # type: AsyncResult[Any]
    reveal_type(app.AsyncResult("id").state)  # type: str
    reveal_type(current_app())  # type: Dray


async def asynchronous() -> None:
    reveal_type(await add.adelay(1))  # type: AsyncResult[int]
    reveal_type(await (await add.adelay(1)).aget())  # type: int
    reveal_type(await fetch("u"))  # type: list[str]
    reveal_type(await fetch.aapply_async(("u",), countdown=1))  # type: AsyncResult[list[str]]
    reveal_type(await fetch.adelay_many([("u",)]))  # type: list[AsyncResult[list[str]]]
    async with app.worker() as worker:
        reveal_type(worker.received)  # type: int


def mistakes() -> None:
    add.delay("1")  # error: arg-type
    add.delay()  # error: call-arg
    add.delay(1, 2, 3)  # error: call-arg
    add.delay(1, z=2)  # error: call-arg
    add(None)  # error: arg-type
    mail.delay("a", "b")  # error: call-arg
    bound.delay(5)  # error: arg-type
    bound.delay("self", "p")  # error: call-arg
    fetch.delay(5)  # error: arg-type
    shared.delay("x")  # error: arg-type
    add.apply_async((1,), contdown=5)  # error: call-arg
    add.apply_async((1,), queue=5)  # error: arg-type
    wrong: AsyncResult[str] = add.delay(1)  # error: assignment


@app.task(max_retires=5)  # error: call-overload
def misspelt() -> None: ...
"""


def expected() -> dict[int, str]:
    """Return what the comments of the sample promise, by line."""
    found = {}
    for number, line in enumerate(SAMPLE.splitlines(), start=1):
        if said := re.search(r"# (type|error): (.+)$", line):
            found[number] = f"{said[1]}: {said[2]}"
    return found


def told(output: str) -> dict[int, str]:
    """Return what mypy said, in the same form."""
    found = {}
    for line in output.splitlines():
        if revealed := re.match(r'sample\.py:(\d+): note: Revealed type is "(.*)"', line):
            plain = re.sub(r"\b(?:dray\.\w+|builtins|typing)\.", "", revealed[2]).replace("?", "")
            found[int(revealed[1])] = f"type: {plain}"
        elif wrong := re.match(r"sample\.py:(\d+): error: .*\[([a-z-]+)\]$", line):
            found.setdefault(int(wrong[1]), f"error: {wrong[2]}")
    return found


def test_mypy_knows_what_tasks_take_and_give(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    # "# type:" is a comment that mypy itself would read.
    (tmp_path / "sample.py").write_text(re.sub(r"# type: ", "# -> ", SAMPLE))
    kept = getattr(pytestconfig, "cache", None)
    cache = tmp_path if kept is None else kept.mkdir("dray-mypy")
    ran = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
            "--no-color-output", "--no-pretty", "--cache-dir", str(cache), "sample.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )  # fmt: skip
    assert ran.stderr == ""
    assert told(ran.stdout) == expected(), ran.stdout
