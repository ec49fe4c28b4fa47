"""Which broker, store and result backends an app opens, and what goes to which of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dray import (
    BackendUnavailable,
    BrokerUnavailable,
    Dray,
    NotSupported,
    Record,
    ResultBackend,
    Retry,
    Url,
    hookimpl,
)
from dray.assisted import Assisted
from dray_backends.memory import MemoryBackend
from dray_brokers.memory import MemoryBroker
from dray_brokers.sqlite import SqliteBroker


class PlainBroker(SqliteBroker):
    """A broker on a file that cancels, counts and delays nothing by itself."""

    def open(self) -> None:
        super().open()
        self.capabilities = msgspec.structs.replace(
            self.capabilities, max_delay=0.0, cancel=False, find=False, dedup=False
        )

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        raise NotSupported("plain:// cannot cancel messages")


class AwayBroker(SqliteBroker):
    def open(self) -> None:
        raise BrokerUnavailable("nobody there")


class Postman(MemoryBackend):
    """A backend that sends results to whoever asked."""

    beside_broker = True
    sent: list[Record] = []
    urls: list[str] = []

    def __init__(self, url: Url) -> None:
        super().__init__(Url.parse("memory://"))
        self.urls.append(url.reveal())
        self.address = "box-7"

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        self.sent.extend(records)
        super().store(records, ttl)


class AwayBackend(ResultBackend):
    def open(self) -> None:
        raise BackendUnavailable("nobody there")

    close = open

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        self.open()

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        raise BackendUnavailable("nobody there")

    def forget(self, ids: Sequence[str]) -> None:
        self.open()


class Places:
    """A plugin with the brokers and backends above."""

    dray_api = (1, 0)

    @hookimpl
    def register_brokers(self, register: Callable[[str, Any], None]) -> None:
        register("plain", PlainBroker)
        register("away", AwayBroker)
        register("both", SqliteBroker)

    @hookimpl
    def register_backends(self, register: Callable[[str, Any], None]) -> None:
        register("postman", Postman)
        register("away", AwayBackend)


App = Callable[..., Dray]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[App]:
    made: list[Dray] = []

    def build(broker: str, backend: str = "disabled", **settings: Any) -> Dray:
        place = {word: url.format(folder=tmp_path) for word, url in (("broker", broker), ("backend", backend))}
        more = {word: str(v).format(folder=tmp_path) if word.endswith("url") else v for word, v in settings.items()}
        app = Dray("places", set_as_current=False, **place, **more)
        app.plugins.register(Places())
        made.append(app)
        return app

    Postman.sent, Postman.urls = [], []
    yield build
    for app in made:
        app.close()


def store_of(app: Dray) -> Any:
    broker = app.broker
    return broker.store if isinstance(broker, Assisted) else None


# The store


def test_a_broker_that_lacks_nothing_is_used_bare(make: App) -> None:
    app = make("sqlite:///{folder}/q.db", "sqlite:///{folder}/r.db")
    assert type(app.broker) is SqliteBroker


def test_where_results_are_kept_is_the_store_when_it_can_be_one(make: App, tmp_path: Path) -> None:
    app = make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db")
    assert store_of(app).url == Url.parse(f"sqlite:///{tmp_path}/r.db")
    assert app.broker.capabilities.cancel


def test_a_store_may_be_named(make: App, tmp_path: Path) -> None:
    app = make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db", store_url="sqlite:///{folder}/s.db")
    assert store_of(app).url == Url.parse(f"sqlite:///{tmp_path}/s.db")


def test_results_elsewhere_that_cannot_serve_as_a_store_are_left_alone(make: App) -> None:
    for backend in ("disabled", "memory://", "postman://"):
        app = make("plain:///{folder}/q.db", backend)
        assert store_of(app) is None
        assert not app.broker.capabilities.cancel


def test_a_store_that_was_named_and_cannot_be_one_is_refused_in_words(make: App) -> None:
    with pytest.raises(
        NotSupported, match=r"store_url memory:// cannot serve as a store: other processes do not see it"
    ):
        _ = make("plain:///{folder}/q.db", store_url="memory://").broker
    with pytest.raises(NotSupported, match="a store is another broker than the one it helps"):
        _ = make("plain:///{folder}/q.db", store_url="plain:///{folder}/q.db").broker


def test_a_store_can_be_done_without(make: App) -> None:
    assert store_of(make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db", store_url="disabled")) is None


def test_without_a_store_what_needs_one_is_refused_when_it_is_sent(make: App) -> None:
    app = make("plain:///{folder}/q.db")
    with pytest.raises(NotSupported, match="the broker has no delays"):
        app.send_task("later", countdown=5)
    with pytest.raises(NotSupported, match="cannot cancel"):
        app.revoke("some-id")


def test_a_store_that_is_away_stops_nobody_from_sending_what_needs_none(make: App) -> None:
    app = make("plain:///{folder}/q.db", store_url="away:///{folder}/s.db")
    assert app.send_task("now").id
    with pytest.raises(BrokerUnavailable, match="nobody there"):
        app.send_task("later", countdown=5, retry=False)
    with pytest.raises(BrokerUnavailable, match="nobody there"):
        app.broker.consumer(["default"], 30)


def test_strict_refuses_emulation_in_words(make: App) -> None:
    app = make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db", strict=True)
    with pytest.raises(NotSupported, match=r"`strict` refuses emulation: .*cancel"):
        _ = app.broker
    assert make("memory://", strict=True).broker.capabilities.cancel


def test_support_says_what_is_emulated_and_how(make: App) -> None:
    rows = {row.feature: row for row in make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db").support()}
    assert rows["cancel (revoke)"].how == "emulated"
    assert rows["priority"].how == "native"
    assert "store" in rows["cancel (revoke)"].note


def test_on_a_poor_broker_with_a_store_tasks_are_delayed_and_revoked_as_anywhere(make: App) -> None:
    app = make("plain:///{folder}/q.db", "sqlite:///{folder}/r.db", imports=[])
    ran: list[str] = []

    @app.task(name="say")
    def say(word: str) -> str:
        ran.append(word)
        return word

    revoked, delayed = say.delay("revoked"), say.apply_async(("delayed",), countdown=0.05)
    revoked.revoke()
    with app.worker():
        assert delayed.get(timeout=10) == "delayed"
    assert ran == ["delayed"]
    assert revoked.state == "REVOKED"


# Result backends


def test_a_task_may_have_a_result_backend_of_its_own(make: App, tmp_path: Path) -> None:
    app = make("memory://", "memory://")
    own = f"sqlite:///{tmp_path}/own.db"

    @app.task(name="kept.apart", backend=own)
    def apart(n: int) -> int:
        return n

    @app.task(name="kept.together")
    def together(n: int) -> int:
        return n

    results = [apart.delay(1), together.delay(2)]
    app.worker().run_until_idle()
    assert [result.get(timeout=5) for result in results] == [1, 2]
    assert app.connections.backend_at(own).fetch([each.id for each in results]).keys() == {results[0].id}
    assert apart.AsyncResult(results[0].id).get(timeout=5) == 1
    assert app.AsyncResult(results[0].id, backend=own).get(timeout=5) == 1
    assert app.AsyncResult(results[0].id).state != "SUCCESS"
    results[0].forget()
    assert app.connections.backend_at(own).fetch([results[0].id]) == {}


async def test_coroutines_wait_at_the_backend_of_each_task(make: App, tmp_path: Path) -> None:
    app = make("memory://", "memory://")

    @app.task(backend=f"sqlite:///{tmp_path}/own.db")
    def apart(n: int) -> int:
        return n

    @app.task
    def together(n: int) -> int:
        return n

    async with app.worker():
        assert (await apart.delay(1).aget(10), await together.delay(2).aget(10)) == (1, 2)


def test_a_task_with_a_backend_keeps_its_result_where_the_app_keeps_none(make: App, tmp_path: Path) -> None:
    app = make("memory://")

    @app.task(backend=f"sqlite:///{tmp_path}/own.db", bind=True, track_started=True)
    def apart(self: Any, n: int) -> int:
        self.update_state(state="HALFWAY")
        return n

    result = apart.delay(3)
    app.worker().run_until_idle()
    assert result.get(timeout=5) == 3


def test_where_a_result_is_to_be_sent_travels_with_the_task_its_retries_and_its_callbacks(make: App) -> None:
    app = make("memory://", "postman://host")

    @app.task(name="again", bind=True, max_retries=2)
    def again(self: Any) -> int:
        if self.request.retries < 2:
            raise Retry(countdown=0)
        return 1

    @app.task(name="after")
    def after(n: int) -> int:
        return n + 1

    again.apply_async(link=after.s())
    app.worker().run_until_idle()
    final = [record for record in Postman.sent if record.final]
    assert [record.reply_to for record in final] == ["box-7", "box-7"]
    assert {record.reply_to for record in Postman.sent} == {"box-7"}


def test_a_backend_beside_the_broker_gets_the_brokers_url_when_its_own_names_no_host(make: App, tmp_path: Path) -> None:
    app = make("sqlite:///{folder}/q.db", "postman://")
    app.send_task("anything")
    assert Postman.urls == [f"sqlite:///{tmp_path}/q.db"]


def test_a_result_backend_that_is_away_stops_nobody_from_sending(make: App, caplog: pytest.LogCaptureFixture) -> None:
    app = make("plain:///{folder}/q.db", "away:///{folder}/r.db", store_url="disabled")
    assert app.send_task("anything").id
    assert "sent unknown to the result backend" in caplog.text


# The caller's own transaction


def test_what_is_sent_in_a_transaction_exists_when_it_is_committed(make: App, tmp_path: Path) -> None:
    app = make("sqlite:///{folder}/q.db")
    _ = app.broker
    with sqlite3.connect(tmp_path / "q.db") as own:
        own.execute("CREATE TABLE orders (n INTEGER)")

        @app.task(name="ship")
        def ship(n: int) -> None: ...

        own.execute("INSERT INTO orders VALUES (1)")
        ship.apply_async((1,), connection=own)
        ship.delay_many([(2,), (3,)], connection=own)
        own.rollback()
        assert app.broker.sizes(["default"])["default"]["ready"] == 0
        own.execute("INSERT INTO orders VALUES (1)")
        ship.apply_async((1,), connection=own)
        ship.delay_many([(2,), (3,)], connection=own)
        own.commit()
    own.close()
    assert app.broker.sizes(["default"])["default"]["ready"] == 3


def test_a_broker_without_transactions_refuses_a_connection_in_words(make: App) -> None:
    app = make("memory://")
    with pytest.raises(
        NotSupported, match=r"memory:// cannot take part in a transaction of yours; send after the commit"
    ):
        app.send_task("anything", connection=object())
    assert isinstance(app.broker, MemoryBroker)
