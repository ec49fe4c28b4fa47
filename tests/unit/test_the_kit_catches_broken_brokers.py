"""The conformance kit itself: for each fault a broker or backend may have, a sentence of its contract turns red."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import msgspec
import pytest

import dray.testing.background
from dray import Broker, BrokerUnavailable, Delivery, Envelope, ManualClock, PublishError, Record, Url
from dray.testing import BrokerContract, ResultBackendContract
from dray_backends import memory as backend_module
from dray_backends.memory import MemoryBackend
from dray_brokers import memory as broker_module
from dray_brokers.memory import MemoryBroker, MemoryConsumer

#: Breaks the memory adapter for the length of one test.
Fault = Callable[[pytest.MonkeyPatch], None]

#: What a failing contract may raise: an assertion, a wrong number of deliveries to unpack, a missing key, a hang.
RED = (AssertionError, ValueError, KeyError, pytest.fail.Exception)

BROKER_FAULTS: list[Any] = []
BACKEND_FAULTS: list[Any] = []


def caught_by(test: str, *arguments: Any) -> Callable[[Fault], Fault]:
    """Enlist a fault, and the test of `BrokerContract` that must find it."""

    def enlist(fault: Fault) -> Fault:
        BROKER_FAULTS.append(pytest.param(fault, test, arguments, id=fault.__name__))
        return fault

    return enlist


def backend_caught_by(test: str, *arguments: Any) -> Callable[[Fault], Fault]:
    def enlist(fault: Fault) -> Fault:
        BACKEND_FAULTS.append(pytest.param(fault, test, arguments, id=fault.__name__))
        return fault

    return enlist


class SmallBroker(MemoryBroker):
    """The memory broker with a limit: only here can the sentences about sizes be tried."""

    capabilities = msgspec.structs.replace(MemoryBroker.capabilities, max_message_bytes=1000)

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        too_big = {each.id: "over 1000 bytes" for each in envelopes if len(each.body) > 1000}
        super().publish([each for each in envelopes if each.id not in too_big])
        if too_big:
            raise PublishError(too_big)


class Kit(BrokerContract):
    patience = moment = 0.0


def judge_broker(test: str, *arguments: Any) -> None:
    broker = SmallBroker(Url.parse("memory://"))
    clock = broker.clock = ManualClock()
    try:
        getattr(Kit(), test)(broker, *arguments)
    finally:
        clock.advance(1e6)  # lets go of a thread that a broken broker keeps waiting


def judge_backend(test: str, *arguments: Any) -> None:
    backend = MemoryBackend(Url.parse("memory://"))
    clock = backend.clock = ManualClock()
    try:
        getattr(ResultBackendContract(), test)(backend, *arguments)
    finally:
        clock.advance(1e6)


# Publishing, bodies, order


@caught_by("test_published_again_while_it_is_lent_it_comes_out_once")
def no_dedup(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(broker_module, "_holds", lambda entries, envelope: False)


@caught_by("test_the_next_attempt_is_another_message")
def attempts_are_taken_for_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(broker_module, "_holds", lambda entries, envelope: bool(entries))


@caught_by("test_what_is_refused_takes_nothing_else_of_its_batch_with_it")
def one_refusal_refuses_the_batch(patch: pytest.MonkeyPatch) -> None:
    def publish(self: SmallBroker, envelopes: Sequence[Envelope]) -> None:
        too_big = {each.id: "over 1000 bytes" for each in envelopes if len(each.body) > 1000}
        if too_big:
            raise PublishError(too_big)
        MemoryBroker.publish(self, envelopes)

    patch.setattr(SmallBroker, "publish", publish)


@caught_by("test_a_body_over_the_limit_is_refused_by_its_id")
def too_large_is_dropped_in_silence(patch: pytest.MonkeyPatch) -> None:
    def publish(self: SmallBroker, envelopes: Sequence[Envelope]) -> None:
        MemoryBroker.publish(self, [each for each in envelopes if len(each.body) <= 1000])

    patch.setattr(SmallBroker, "publish", publish)


@caught_by("test_every_byte_value_survives")
def bodies_are_taken_for_text(patch: pytest.MonkeyPatch) -> None:
    change_deliveries(patch, lambda each: {"body": each.body.decode(errors="replace").encode()})


@caught_by("test_the_most_urgent_comes_first")
def priority_reversed(patch: pytest.MonkeyPatch) -> None:
    publish = MemoryBroker.publish

    def reversed_publish(self: MemoryBroker, envelopes: Sequence[Envelope]) -> None:
        publish(self, [msgspec.structs.replace(each, priority=9 - each.priority) for each in envelopes])

    patch.setattr(MemoryBroker, "publish", reversed_publish)


@caught_by("test_the_oldest_comes_first")
def last_in_first_out(patch: pytest.MonkeyPatch) -> None:
    put = broker_module._Queue.put

    def put_first(self: Any, entry: Any, delay: float, now: float) -> None:
        entry.place = -entry.place
        put(self, entry, delay, now)

    patch.setattr(broker_module._Queue, "put", put_first)


@caught_by("test_never_more_than_the_limit_come")
def the_limit_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    receive = MemoryConsumer.receive
    patch.setattr(MemoryConsumer, "receive", lambda self, limit, wait, queues=None: receive(self, 1000, wait, queues))


@caught_by("test_a_look_may_be_narrowed_to_some_queues")
def every_look_is_at_all_queues(patch: pytest.MonkeyPatch) -> None:
    receive = MemoryConsumer.receive
    patch.setattr(MemoryConsumer, "receive", lambda self, limit, wait, queues=None: receive(self, limit, wait))


# Settling and leases


@caught_by("test_what_is_acked_never_comes_again")
def acks_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "ack", lambda self, deliveries: [])


@caught_by("test_what_is_requeued_comes_back_whole")
def requeue_loses_the_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "requeue", lambda self, deliveries, delay=0.0: self.ack(deliveries))


@caught_by("test_what_is_requeued_goes_behind_the_others")
def requeue_keeps_the_place(patch: pytest.MonkeyPatch) -> None:
    def requeue(self: MemoryConsumer, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._broker.settle(deliveries, lambda queue, entry: queue.put(entry, delay, 0.0))

    patch.setattr(MemoryConsumer, "requeue", requeue)


@caught_by("test_requeued_with_a_delay_it_stays_away")
def requeue_forgets_the_delay(patch: pytest.MonkeyPatch) -> None:
    requeue = MemoryConsumer.requeue
    patch.setattr(MemoryConsumer, "requeue", lambda self, deliveries, delay=0.0: requeue(self, deliveries))


@caught_by("test_requeueing_keeps_the_delivery_count")
def deliveries_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    change_deliveries(patch, lambda each: {"delivery_count": 1})


@caught_by("test_what_is_released_was_not_counted")
def release_is_charged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "release", MemoryConsumer.requeue)


@caught_by("test_a_consumer_that_closes_gives_back_what_it_holds")
def closing_keeps_the_loans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "close", lambda self: None)


@caught_by("test_a_loan_that_runs_out_comes_back_to_another_consumer")
def leases_never_run_out(patch: pytest.MonkeyPatch) -> None:
    lend = broker_module._Queue.lend
    patch.setattr(
        broker_module._Queue, "lend", lambda self, limit, until, holder, tokens: lend(self, limit, inf, holder, tokens)
    )


@caught_by("test_a_renewed_loan_goes_on")
def renewing_does_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "extend", lambda self, deliveries, seconds: [])


@caught_by("test_renewing_one_loan_does_not_renew_another")
def renewing_one_renews_all(patch: pytest.MonkeyPatch) -> None:
    def extend(self: MemoryConsumer, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        for entry in self._broker._queues["q"].leased.values():
            entry.until = self._broker.clock.monotonic() + seconds
        return []

    patch.setattr(MemoryConsumer, "extend", extend)


@caught_by("test_who_lost_a_loan_is_told_and_changes_nothing", "ack")
def ack_ignores_the_token(patch: pytest.MonkeyPatch) -> None:
    settle_by_id(patch)


@caught_by("test_who_lost_a_loan_is_told_and_changes_nothing", "requeue")
def requeue_ignores_the_token(patch: pytest.MonkeyPatch) -> None:
    settle_by_id(patch)


@caught_by("test_who_lost_a_loan_is_told_and_changes_nothing", "bury")
def nobody_is_told_of_a_lost_loan(patch: pytest.MonkeyPatch) -> None:
    settle = MemoryBroker.settle
    patch.setattr(MemoryBroker, "settle", lambda self, deliveries, fate: settle(self, deliveries, fate) and [])


# Delays, dead letters, cancelling


@caught_by("test_nothing_comes_before_its_time")
def delays_are_ignored(patch: pytest.MonkeyPatch) -> None:
    put = broker_module._Queue.put
    patch.setattr(broker_module._Queue, "put", lambda self, entry, delay, now: put(self, entry, 0.0, now))


@caught_by("test_it_comes_when_its_time_has_come")
def delays_never_end(patch: pytest.MonkeyPatch) -> None:
    put = broker_module._Queue.put
    patch.setattr(
        broker_module._Queue, "put", lambda self, entry, delay, now: put(self, entry, inf if delay else 0.0, now)
    )


@caught_by("test_a_dead_letter_is_kept_whole_with_its_reason")
def the_reason_is_lost(patch: pytest.MonkeyPatch) -> None:
    bury = MemoryConsumer.bury
    patch.setattr(MemoryConsumer, "bury", lambda self, deliveries, reason: bury(self, deliveries, ""))


@caught_by("test_what_is_buried_does_not_come_out")
def bury_gives_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "bury", lambda self, deliveries, reason: self.requeue(deliveries))


@caught_by("test_only_the_letters_asked_for_are_replayed")
def replay_takes_all(patch: pytest.MonkeyPatch) -> None:
    replay = MemoryBroker.replay
    patch.setattr(MemoryBroker, "replay", lambda self, queue, ids=None: replay(self, queue))


@caught_by("test_what_is_replayed_counts_from_one_again")
def replay_keeps_the_count(patch: pytest.MonkeyPatch) -> None:
    def replay(self: MemoryBroker, queue: str, ids: Sequence[str] | None = None) -> int:
        letters = list(self._queues[queue].dead.values())
        self._queues[queue].dead.clear()
        for entry in letters:
            self._queues[queue].put(entry, 0.0, 0.0)
        return len(letters)

    patch.setattr(MemoryBroker, "replay", replay)


@caught_by("test_the_next_attempts_are_cancelled_too")
def an_ack_forgets_the_cancellation(patch: pytest.MonkeyPatch) -> None:
    ack = MemoryConsumer.ack

    def forgetful_ack(self: MemoryConsumer, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        for each in deliveries:
            self._broker._cancelled.pop(each.id, None)
        return ack(self, deliveries)

    patch.setattr(MemoryConsumer, "ack", forgetful_ack)


@caught_by("test_a_cancellation_is_forgotten_when_its_time_is_over")
def cancellations_last_for_ever(patch: pytest.MonkeyPatch) -> None:
    cancel = MemoryBroker.cancel
    patch.setattr(MemoryBroker, "cancel", lambda self, ids, ttl: cancel(self, ids, inf))


@caught_by("test_an_id_can_be_cancelled_before_it_is_published")
def only_what_is_stored_can_be_cancelled(patch: pytest.MonkeyPatch) -> None:
    cancel = MemoryBroker.cancel
    patch.setattr(MemoryBroker, "cancel", lambda self, ids, ttl: cancel(self, [*self.find(ids)], ttl))


# Looking, sharing, connections


@caught_by("test_peek_takes_nothing_and_counts_nothing")
def peek_lends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBroker, "peek", lambda self, queue, limit: self.consumer([queue], 1.0).receive(limit, 0))


@caught_by("test_purge_leaves_what_is_lent")
def purge_takes_what_is_lent(patch: pytest.MonkeyPatch) -> None:
    purge = MemoryBroker.purge

    def greedy_purge(self: MemoryBroker, queue: str) -> int:
        self._queues[queue].leased.clear()
        return purge(self, queue)

    patch.setattr(MemoryBroker, "purge", greedy_purge)


@caught_by("test_find_says_in_which_state_an_id_is_stored")
def find_always_says_ready(patch: pytest.MonkeyPatch) -> None:
    find = MemoryBroker.find
    patch.setattr(MemoryBroker, "find", lambda self, ids: dict.fromkeys(find(self, ids), "ready"))


@caught_by("test_two_consumers_never_get_the_same_message")
def what_is_lent_stays_ready(patch: pytest.MonkeyPatch) -> None:
    lend = broker_module._Queue.lend

    def lend_copies(self: Any, *arguments: Any) -> Any:
        ready = list(self.ready)
        lent = lend(self, *arguments)
        self.ready = ready
        return lent

    patch.setattr(broker_module._Queue, "lend", lend_copies)


@caught_by("test_a_waiting_receive_wakes_when_something_is_published")
def nobody_is_woken(patch: pytest.MonkeyPatch) -> None:
    def never(self: MemoryConsumer, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        self._broker.clock.wait(self.bell, 1e5)
        return []

    patch.setattr(MemoryBroker, "ring", lambda self: None)
    patch.setattr(MemoryConsumer, "receive", never)


@caught_by("test_without_a_wait_an_empty_queue_says_so_at_once")
def receive_always_waits(patch: pytest.MonkeyPatch) -> None:
    receive = MemoryConsumer.receive
    patch.setattr(MemoryConsumer, "receive", lambda self, limit, wait, queues=None: receive(self, limit, 1e5, queues))


@caught_by("test_what_is_not_declared_is_refused_and_what_is_declared_works", "peek")
def declared_but_not_there(patch: pytest.MonkeyPatch) -> None:
    def peek(self: MemoryBroker, queue: str, limit: int) -> None:
        raise AssertionError("not written yet")

    patch.setattr(MemoryBroker, "peek", peek)


@pytest.mark.parametrize(("fault", "test", "arguments"), BROKER_FAULTS)
def test_the_contract_turns_red_for_a_broker_with_this_fault(
    fault: Fault, test: str, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_broker(test, *arguments)

    fault(monkeypatch)
    monkeypatch.setattr(dray.testing.background, "HANGS", 0.1)
    with pytest.raises(RED):
        judge_broker(test, *arguments)


class FrailBroker(SmallBroker):
    """A broker whose connection can be cut, and does or does not come back with `open()`."""

    heals = True
    is_cut = False

    def open(self) -> None:
        self.is_cut = self.is_cut and not self.heals

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        if self.is_cut:
            raise BrokerUnavailable("cut")
        super().publish(envelopes)


class CuttingKit(Kit):
    def cut(self, broker: Broker) -> None:
        broker.is_cut = True  # type: ignore[attr-defined]


def test_a_connection_that_was_cut_must_heal_when_opened_again() -> None:
    CuttingKit().test_after_the_connection_was_cut_open_heals_it(FrailBroker(Url.parse("memory://")))

    frail = FrailBroker(Url.parse("memory://"))
    frail.heals = False
    with pytest.raises(BrokerUnavailable):
        CuttingKit().test_after_the_connection_was_cut_open_heals_it(frail)


# Result backends


@backend_caught_by("test_progress_never_replaces_a_result")
@backend_caught_by("test_the_rule_holds_within_a_batch")
@backend_caught_by("test_a_result_of_lower_rank_never_replaces_one_of_higher_rank")
@backend_caught_by("test_of_racing_writers_the_highest_rank_stays")
def the_last_writer_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backend_module, "_stays", lambda kept, new: False)


@backend_caught_by("test_a_result_of_equal_or_higher_rank_replaces_a_result", 2)
@backend_caught_by("test_progress_replaces_progress")
def the_first_writer_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backend_module, "_stays", lambda kept, new: True)


@backend_caught_by("test_a_result_replaces_progress_of_any_rank")
def only_the_rank_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backend_module, "_stays", lambda kept, new: new.rank < kept.rank)


@backend_caught_by("test_a_record_is_gone_when_its_time_is_up")
def records_never_expire(patch: pytest.MonkeyPatch) -> None:
    store = MemoryBackend.store
    patch.setattr(MemoryBackend, "store", lambda self, records, ttl: store(self, records, None))


@backend_caught_by("test_without_a_time_to_live_a_record_stays")
def no_time_to_live_means_no_life(patch: pytest.MonkeyPatch) -> None:
    store = MemoryBackend.store
    patch.setattr(MemoryBackend, "store", lambda self, records, ttl: store(self, records, ttl or 0.0))


@backend_caught_by("test_purging_leaves_what_is_still_good")
def purge_takes_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBackend, "purge", lambda self: self._kept.clear() or 0)


@backend_caught_by("test_waiting_wakes_when_a_result_is_stored")
def waiting_never_ends(patch: pytest.MonkeyPatch) -> None:
    def wait(self: MemoryBackend, ids: Sequence[str], timeout: float) -> dict[str, Record]:
        self.clock.wait(threading.Event(), 1e5)
        return {}

    patch.setattr(MemoryBackend, "wait", wait)


@pytest.mark.parametrize(("fault", "test", "arguments"), BACKEND_FAULTS)
def test_the_contract_turns_red_for_a_backend_with_this_fault(
    fault: Fault, test: str, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_backend(test, *arguments)

    fault(monkeypatch)
    monkeypatch.setattr(dray.testing.background, "HANGS", 0.1)
    with pytest.raises(RED):
        judge_backend(test, *arguments)


# Tools for breaking


def change_deliveries(patch: pytest.MonkeyPatch, changes: Callable[[Delivery], dict[str, Any]]) -> None:
    receive = MemoryConsumer.receive

    def changed(self: MemoryConsumer, limit: int, wait: float, queues: Sequence[str] | None = None) -> list[Delivery]:
        return [msgspec.structs.replace(each, **changes(each)) for each in receive(self, limit, wait, queues)]

    patch.setattr(MemoryConsumer, "receive", changed)


def settle_by_id(patch: pytest.MonkeyPatch) -> None:
    settle = MemoryBroker.settle

    def by_id(self: MemoryBroker, deliveries: Sequence[Delivery], fate: Any) -> list[Delivery]:
        tokens = {entry.envelope.id: token for token, entry in self._queues["q"].leased.items()}
        return settle(self, [msgspec.structs.replace(each, receipt=tokens.get(each.id)) for each in deliveries], fate)

    patch.setattr(MemoryBroker, "settle", by_id)
