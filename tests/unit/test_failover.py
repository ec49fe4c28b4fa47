"""Several broker URLs: the others stand by, and take over when the one in use cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dray import Broker, BrokerUnavailable, Dray, Envelope, Queue, Url, hookimpl
from dray.failover import Failover
from dray.settings import Settings
from dray_brokers.memory import MemoryBroker


class Node(MemoryBroker):
    """A broker in memory that can be taken down."""

    def __init__(self, name: str) -> None:
        super().__init__(Url.parse("memory://"))
        self.place = name
        self.down = False
        self.declared: list[str] = []

    def open(self) -> None:
        self._fail()
        super().open()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self._fail()
        super().publish(envelopes)

    def declare(self, queues: Sequence[Queue]) -> None:
        self.declared = [queue.name for queue in queues]

    def _fail(self) -> None:
        if self.down:
            raise BrokerUnavailable(f"{self.place} is down")


class LazyNode(Node):
    """One that connects when it is first used, so that it can always be opened."""

    def open(self) -> None:
        MemoryBroker.open(self)


class GoneAway:
    """A plugin whose broker can never be reached."""

    dray_api = (1, 0)

    @hookimpl
    def register_brokers(self, register: Callable[[str, Any], None]) -> None:
        def gone(url: Url) -> Broker:
            node = Node("gone")
            node.down = True
            return node

        register("gone", gone)


def send(broker: Broker, id: str = "a") -> None:
    broker.publish([Envelope(id=id, queue="q", body=b"")])


def test_the_first_that_can_be_reached_is_used() -> None:
    first, second, third = Node("1"), Node("2"), Node("3")
    first.down = True
    broker = Failover([first, second, third])
    broker.open()
    assert broker.current is second
    assert (broker.place, broker.capabilities) == ("2", second.capabilities)


def test_opening_again_stays_with_the_one_in_use() -> None:
    first, second = Node("1"), Node("2")
    first.down = True
    broker = Failover([first, second])
    broker.open()
    first.down = False
    broker.open()
    assert broker.current is second


def test_the_next_takes_over_when_the_one_in_use_goes_away_and_the_first_comes_after_the_last() -> None:
    first, second = Node("1"), Node("2")
    broker = Failover([first, second])
    broker.open()
    for failing, taking_over in ((first, second), (second, first)):
        failing.down, taking_over.down = True, False
        with pytest.raises(BrokerUnavailable, match="is down"):
            send(broker)
        broker.open()
        assert broker.current is taking_over
        send(broker)


def test_one_that_can_always_be_opened_is_left_when_it_has_failed() -> None:
    first, second = LazyNode("1"), LazyNode("2")
    first.down = True
    broker = Failover([first, second])
    broker.open()
    with pytest.raises(BrokerUnavailable):
        send(broker)
    broker.open()
    assert broker.current is second
    send(broker)


def test_when_all_are_away_one_line_says_what_was_tried() -> None:
    nodes = [Node("north"), Node("south")]
    for node in nodes:
        node.down = True
    with pytest.raises(BrokerUnavailable) as caught:
        Failover(nodes).open()
    assert str(caught.value) == ("none of 2 brokers can be reached: memory://: north is down; memory://: south is down")


def test_what_was_declared_is_declared_to_the_one_that_takes_over() -> None:
    first, second = Node("1"), Node("2")
    broker = Failover([first, second])
    broker.open()
    broker.declare([Queue(name="news", exchange="news", type="fanout")])
    first.down = True
    with pytest.raises(BrokerUnavailable):
        send(broker)
    broker.open()
    assert (first.declared, second.declared) == (["news"], ["news"])


def test_shuffled_brokers_are_not_all_tried_in_the_same_order() -> None:
    names = {"".join(node.place for node in Failover(_nodes(), shuffle=True).brokers) for _ in range(200)}
    assert len(names) > 1
    assert all(sorted(name) == ["1", "2", "3", "4"] for name in names)


def _nodes() -> list[Broker]:
    return [Node(str(n)) for n in range(1, 5)]


@pytest.mark.parametrize("as_list", [True, False], ids=["a list", "one text"])
def test_an_app_with_several_urls_sends_and_works_on_the_one_that_is_there(tmp_path: Path, as_list: bool) -> None:
    urls = ["gone:///nowhere", f"sqlite:///{tmp_path}/b.db"]
    app = Dray("two", broker=urls if as_list else ";".join(urls), backend="memory://", set_as_current=False)
    app.plugins.register(GoneAway())

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    results = [add.delay(2, 3), add.apply_async((1, 1), priority=3)]
    app.worker().run_until_idle()
    assert [result.get(timeout=5) for result in results] == [5, 2]
    app.close()


def test_the_setting_takes_a_list_or_a_text_with_semicolons() -> None:
    as_list = Settings.load({"broker_url": ["redis://a/0", "redis://b/0"]}, environ={"DRAY_CONFIG": ""})
    as_text = Settings.load({}, environ={"DRAY_CONFIG": "", "DRAY_BROKER_URL": "redis://a/0; redis://b/0"})
    assert as_list.broker_url == as_text.broker_url == "redis://a/0;redis://b/0"


def test_passwords_of_all_of_several_urls_are_masked() -> None:
    conf = Settings.load({"broker_url": "redis://u:one@a/0;redis://u:two@b/0"}, environ={"DRAY_CONFIG": ""})
    shown = conf.shown()["broker_url"]
    assert "one" not in shown
    assert "two" not in shown
