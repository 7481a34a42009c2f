"""The generator: steps made alone, prefixes kept, what was planted is there."""

import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.transaction_graph import Due, TransactionGraph, Transactions

COLUMNS = ("source", "target", "time", "amount", "laundering")
SMALL = TransactionGraph(num_nodes=120, num_steps=30, events_per_step=40, cycles_per_step=1)


def same(one: Transactions, other: Transactions) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)


def between(events: Transactions, start: int, stop: int) -> Transactions:
    chosen = (events.time >= start) & (events.time < stop)
    return Transactions(*(getattr(events, name)[chosen] for name in COLUMNS))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 30), st.integers(0, 30), st.sampled_from(["calendar", "income"]))
def test_a_run_of_steps_is_that_of_the_whole(seed: int, one: int, other: int, due: Due) -> None:
    graph = replace(SMALL, seed=seed, due=due)
    start, stop = sorted((one, other))
    assert same(graph.events(start, stop), between(graph.events(), start, stop))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from(["calendar", "income"]))
def test_a_longer_timeline_keeps_its_prefix(seed: int, steps: int, due: Due) -> None:
    graph = replace(SMALL, seed=seed, due=due)
    short, long = replace(graph, num_steps=min(steps, 30)), replace(graph, num_steps=60)
    assert same(short.events(), long.events(0, short.num_steps))


def test_seeds_differ_and_the_name_says_what_was_made() -> None:
    other = replace(SMALL, seed=1)
    assert not same(SMALL.events(), other.events())
    assert SMALL.name != other.name
    assert replace(other, seed=0).name == SMALL.name
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


def test_money_goes_round_a_cycle_in_order_and_not_round_a_decoy() -> None:
    graph = replace(SMALL, num_nodes=5000, events_per_step=0, num_steps=50, cycle_length=(4, 4), churn=0)
    events = graph.events()
    for marked, forward in ((events.laundering, True), (~events.laundering, False)):
        chains = chains_of(between_mask(events, marked))
        assert len(chains) > 10
        for hops in chains:
            assert [hop[1] for hop in hops] == ([hop[0] for hop in hops[1:]] + [hops[0][0]])
            times = [hop[2] for hop in hops]
            assert (times == sorted(times)) is forward
            assert len(set(times)) == 4
            amounts = [hop[3] for hop in hops]
            assert all(0.98 <= later / earlier <= 1 for earlier, later in pairwise(amounts))


def between_mask(events: Transactions, chosen: np.ndarray) -> Transactions:
    return Transactions(*(getattr(events, name)[chosen] for name in COLUMNS))


def chains_of(events: Transactions) -> list[list[tuple[int, int, int, float]]]:
    """Hops (source, target, time, sum of amounts) followed from account to account; only chains that stand alone."""
    hops: dict[tuple[int, int, int], float] = {}
    for source, target, time, amount, _ in zip(*(getattr(events, name).tolist() for name in COLUMNS), strict=True):
        hops[source, target, time] = hops.get((source, target, time), 0) + amount
    sources = [source for source, _, _ in hops]
    after = {source: (source, target, time, amount) for (source, target, time), amount in hops.items()}
    chains = []
    for start in sorted(after, key=lambda account: after[account][2]):
        walk, at = [], start
        while at in after and len(walk) < 4 and sources.count(at) == 1:
            walk.append(after[at])
            at = after[at][1]
        if len(walk) == 4 and at == start and not any({hop[0] for hop in walk} & {hop[0] for hop in c} for c in chains):
            by_amount = max(range(4), key=lambda i: walk[i][3])
            chains.append(walk[by_amount:] + walk[:by_amount])
    return chains


def test_standing_orders_make_neighbouring_steps_overlap() -> None:
    def repeated(recurrence: float) -> float:
        events = replace(SMALL, num_nodes=3000, recurrence=recurrence, rhythm=1, cycles_per_step=0, churn=0).events()
        pairs = [set(zip(*between_pairs(events, step), strict=True)) for step in range(30)]
        return float(np.mean([len(a & b) / len(b) for a, b in pairwise(pairs)]))

    assert repeated(0.0) < 0.02
    assert 0.7 < repeated(0.8) < 0.85


def test_by_income_money_is_passed_on_to_one_payee_after_so_many_steps() -> None:
    options: dict[str, Any] = {"num_nodes": 400, "num_steps": 40, "churn": 0, "cycles_per_step": 0, "order_life": 40}
    graph = TransactionGraph(**options, events_per_step=20, recurrence=0.5, due="income", rhythm=4)
    everything = graph.events()
    ordinary = TransactionGraph(**options, events_per_step=10, recurrence=0).events()  # the same draws
    passed: list[Counter[tuple[int, int]]] = []
    for step in range(40):
        found, first = (Counter(zip(*between_pairs(events, step), strict=True)) for events in (everything, ordinary))
        assert first <= found
        passed.append(found - first)
        if step >= 4:
            received = Counter(between_pairs(everything, step - 4)[1])
            assert Counter({source: count for (source, _), count in passed[-1].items()}) <= received
    # Half of the money is passed on: as many payments as ordinary ones, from step 0 on.
    assert abs(sum(sum(found.values()) for found in passed) / (40 * 10) - 1) < 0.2
    payees: dict[int, list[int]] = {}
    for found in passed:
        for source, target in found:
            payees.setdefault(source, []).append(target)
    # In forty steps an account changes its payee once.
    assert max(len(set(targets)) for targets in payees.values()) == 2
    assert np.mean([len(set(targets)) == 1 for targets in payees.values()]) > 0.5


def between_pairs(events: Transactions, step: int) -> tuple[list[int], list[int]]:
    chosen = events.time == step
    return events.source[chosen].tolist(), events.target[chosen].tolist()


def test_old_accounts_are_paid_more_and_closed_ones_are_not_paid() -> None:
    graph = TransactionGraph(
        num_nodes=1000, num_steps=40, events_per_step=2000, churn=0, communities=1, recurrence=0, cycles_per_step=0
    )
    paid = np.bincount(graph.events().target, minlength=1000)
    # Of i^(-1/2) the first tenth has sqrt(1/10) of the whole.
    assert abs(paid[:100].sum() / paid.sum() - 10**-0.5) < 0.01
    flat = np.bincount(replace(graph, attachment=0.0).events().target, minlength=1000)
    assert abs(flat[:100].sum() / flat.sum() - 0.1) < 0.01
    churned = replace(graph, churn=0.02).events()
    for step in (0, 20, 39):
        pair = np.concatenate([churned.source[churned.time == step], churned.target[churned.time == step]])
        assert len(np.unique(pair)) <= 667
    assert len(np.unique(churned.source)) > 900


def test_payments_stay_in_communities() -> None:
    graph = TransactionGraph(num_nodes=500, num_steps=10, communities=5, mixing=0.2, cycles_per_step=0)
    events = graph.events()
    inside = (events.source % 5 == events.target % 5).mean()
    assert abs(inside - (0.8 + 0.2 / 5)) < 0.03
    assert not (events.source == events.target).any()


def test_a_million_events_in_any_number() -> None:
    graph = TransactionGraph(num_nodes=100_000, num_steps=50, events_per_step=20_000)
    count = len(graph.events())
    # Some orders end with their accounts.
    assert 800_000 < count < 1_050_000
    assert len(graph.events(3, 3)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 10}, "num_nodes=10; expected 20 or more"),
        ({"num_steps": 0}, "num_steps=0; expected 1 or more"),
        ({"recurrence": 1.5}, r"recurrence=1.5; expected 0 … 1"),
        ({"due": "friday"}, "got due='friday'; choose from calendar, income"),
        ({"churn": 1.0}, "churn=1.0"),
        ({"attachment": 1.0}, "attachment=1.0"),
        ({"events_per_step": -1}, "events_per_step=-1"),
        ({"events_per_step": float("nan")}, "events_per_step=nan"),
        ({"cycle_length": (1, 3)}, r"cycle_length=\(1, 3\)"),
        ({"hop_gap": (3, 2)}, r"hop_gap=\(3, 2\)"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransactionGraph(**options)


def test_steps_outside_are_refused() -> None:
    with pytest.raises(ValueError, match=r"events\(5, 31\); expected 0 ≤ start ≤ stop ≤ 30"):
        SMALL.events(5, 31)
