"""Dead letters are the same wherever they are kept: what stands in them, edited and replayed, filtered, trimmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dray import Dray, Reject
from dray.codec import unpack
from dray.testing.faults import wait_until
from dray.trimming import Trimmer

#: Of each place: the fixture that has the server, and the URL made of that server's.
PLACES = {
    "memory": ("tmp_path", lambda folder: "memory://"),
    "sqlite": ("tmp_path", lambda folder: f"sqlite:///{folder}/queue.db"),
    "redis": ("redis_server", lambda server: server.url),
    "postgresql": ("postgres_server", lambda server: server.url),
    "rabbitmq": ("rabbitmq_server", lambda server: server.url),
    "sqs": ("ministack_server", lambda server: server.url),
    "kombu": ("redis_server", lambda server: "kombu+" + server.url),
}


@pytest.fixture(params=PLACES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Dray]:
    """An app with a queue of its own, and a task that takes no number above 10."""
    fixture, url = PLACES[request.param]
    with Dray(
        "letters",
        broker=url(request.getfixturevalue(fixture)),
        backend=f"sqlite:///{tmp_path}/results.db",
        task_default_queue=f"letters-{uuid4().hex[:8]}",
        worker_concurrency=1,
        set_as_current=False,
    ) as made:

        @made.task(name="shop.picky")
        def picky(x: int) -> int:
            if x > 10:
                raise Reject(f"{x} is too large")
            return x

        yield made
        made.dead_letters.purge(queues=[made.conf.task_default_queue])


def bury(app: Dray, *numbers: int) -> list[str]:
    """Have a worker bury a call for each of these numbers; return their ids."""
    before = len(found(app))
    sent = [app.tasks["shop.picky"].apply_async((n,), headers={"n": n}, priority=5) for n in numbers]
    with app.worker(lease=20.0):
        wait_until(lambda: all(result.ready() for result in sent), timeout=60, look=0.05)
    wait_until(lambda: len(found(app)) == before + len(numbers), timeout=30, look=0.5)
    return [result.id for result in sent]


def found(app: Dray) -> dict[int, str]:
    """Return the ids of the letters, by the number they were sent with."""
    letters = app.dead_letters.find(queues=[app.conf.task_default_queue])
    return {letter.message.headers["n"]: letter.id for letter in letters if letter.message is not None}


@pytest.mark.timeout(180)
def test_a_letter_holds_what_came_and_what_became_of_it(app: Dray) -> None:
    began, queue = app.clock.time(), app.conf.task_default_queue
    (id,) = bury(app, 11)
    (letter,) = app.dead_letters.find([id], [queue])
    assert (letter.id, letter.queue, letter.task, letter.reason) == (id, queue, "shop.picky", "11 is too large")
    assert (letter.deliveries, letter.retries, letter.releases) == (1, 0, 0)
    assert letter.letter.priority > 0
    message = letter.message
    assert message is not None and message == unpack(letter.letter.body)
    assert (message.headers, app.payloads.arguments(message)[0]) == ({"n": 11}, [11])
    # The clocks of servers differ a little from ours.
    assert letter.letter.buried is not None and began - 60 < letter.letter.buried < app.clock.time() + 60


@pytest.mark.timeout(180)
def test_letters_are_filtered_edited_replayed_and_deleted(app: Dray) -> None:
    queue = app.conf.task_default_queue
    first, second, third = bury(app, 11, 12, 13)
    edited = app.dead_letters.edit(first, [queue], args=[1])
    assert set(found(app)) == {12, 13}
    assert app.dead_letters.replay(queues=[queue], reason="12 is") == {queue: 1}
    assert set(found(app)) == {13}
    with app.worker(lease=20.0):
        assert edited.get(timeout=60) == 1
        wait_until(lambda: app.AsyncResult(second).state == "REJECTED", timeout=60, look=0.05)
    wait_until(lambda: set(found(app)) == {12, 13}, timeout=30, look=0.5)
    assert app.dead_letters.purge([third], [queue]) == {queue: 1}
    assert set(found(app)) == {12}


@pytest.mark.timeout(180)
def test_the_oldest_letters_are_trimmed(app: Dray) -> None:
    queue = app.conf.task_default_queue
    for number in (11, 12, 13):
        bury(app, number)
    app.conf.dead_letter_max = 1
    # Some brokers count what has come a moment later.
    wait_until(lambda: app.broker.sizes([queue])[queue]["dead"] == 3, timeout=30, look=0.5)
    Trimmer(app, [queue]).trim()
    wait_until(lambda: set(found(app)) == {13}, timeout=30, look=0.5)
    app.conf.dead_letter_expires = 1e-6
    trimmer = Trimmer(app, [queue])
    trimmer._next_age = 0.0
    trimmer.trim()
    wait_until(lambda: set(found(app)) == set(), timeout=30, look=0.5)
