"""A seeded generator of transaction graphs with planted laundering: any size, each step made by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

# What the draws are for goes into their key, so that none repeats another's.
_ORDINARY, _ORDERS, _CHAINS, _PAYEES = 1, 2, 3, 4
_LIVE_SHARE = 2 / 3
_FEE = 0.02

Due = Literal["calendar", "income"]


@dataclass(frozen=True, eq=False)
class Transactions:
    """Events sorted by step.

    Attributes:
        source: (E,) paying account, int64.
        target: (E,) paid account.
        time: (E,) step.
        amount: (E,) float64, above 0.
        laundering: (E,) bool: a hop of a planted cycle whose money really goes round; decoys are not.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    time: NDArray[np.int64]
    amount: NDArray[np.float64]
    laundering: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, kw_only=True)
class TransactionGraph:
    r"""Accounts that pay each other over T steps: hubs, communities, standing orders, and a few cycles of laundering.

    - *Ordinary* payments: a live account pays another, which it prefers to be old: the probability of the i-th oldest
      is :math:`\propto i^{-\beta}`, the attachment that an account has in the growth model of Barabási and Albert
      (https://arxiv.org/abs/cond-mat/9910332) for β = 1/2.
    - *Standing orders*: the same pair again and again for ``order_life`` steps, which makes neighbouring snapshots
      overlap. By the calendar they fall due at every ``rhythm``-th step: whoever remembers when an account was paid
      knows when it is paid again. By income, every account has one standing payee at a time, and passes what it
      receives on to it ``rhythm`` steps later: who is paid next depends on what its payers received then, which no
      account can tell by its own past, nor a snapshot.
    - *Churn*: accounts close and others open; a third of the N are closed at any step. A number is used again later.
    - *Laundering*: money goes round a cycle of accounts, one hop after the other, each split into some equal payments,
      a small fee kept at each. *Decoys* are the same hops in the opposite order: nothing can go round. All at once, or
      without direction, the two cannot be told apart; in order they can.

    Step t depends on (seed, t) alone: a rank makes its own steps only, and a longer T keeps its prefix.

    Args:
        num_nodes: N accounts.
        num_steps: T.
        events_per_step: ordinary payments and standing orders of a step, on average; some fewer where accounts close,
            with which their orders end.
        recurrence: share of these that are standing orders, in [0, 1]; by income, the chance that a payment is passed
            on.
        due: when a standing order is paid, by ``calendar`` or by ``income``.
        rhythm: steps between two payments of a standing order, with 1 it is paid at every step; or from income to
            payment.
        order_life: steps that a standing order lasts; money is passed on no longer than that either.
        attachment: β in [0, 1); 0 prefers nobody.
        churn: share of the live accounts that close in a step, in [0, 1).
        communities: groups of accounts, numbered by the account modulo their number.
        mixing: share of the payments that leave the payer's community.
        cycles_per_step: cycles that begin in a step, on average; 0 for no laundering.
        decoys: for each cycle, on average.
        cycle_length: accounts of a cycle, from and to.
        hop_gap: steps between two hops, from and to.
        splits: equal payments that a hop is split into, from and to.
        seed: of everything.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> graph = TransactionGraph(num_nodes=100, num_steps=20, events_per_step=30)
        >>> whole, tail = graph.events(), graph.events(15, 20)
        >>> bool((whole.source[whole.time >= 15] == tail.source).all())
        True
    """

    num_nodes: int = 2000
    num_steps: int = 60
    events_per_step: float = 500.0
    recurrence: float = 0.5
    due: Due = "calendar"
    rhythm: int = 5
    order_life: int = 30
    attachment: float = 0.5
    churn: float = 0.005
    communities: int = 10
    mixing: float = 0.1
    cycles_per_step: float = 2.0
    decoys: float = 1.0
    cycle_length: tuple[int, int] = (3, 6)
    hop_gap: tuple[int, int] = (1, 4)
    splits: tuple[int, int] = (3, 5)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_steps", 1), ("rhythm", 1), ("order_life", 1), ("communities", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"got {name}={getattr(self, name)}; expected {least} or more")
        if self.due not in get_args(Due):
            raise ValueError(f"got due={self.due!r}; choose from {', '.join(get_args(Due))}")
        for name in ("recurrence", "attachment", "churn", "mixing"):
            share, limit = getattr(self, name), 1 if name in ("recurrence", "mixing") else 0.999
            if not 0 <= share <= limit:
                raise ValueError(f"got {name}={share}; expected 0 … {limit}")
        for name in ("events_per_step", "cycles_per_step", "decoys"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"got {name}={getattr(self, name)}; expected 0 or more")
        for name, least in (("cycle_length", 2), ("hop_gap", 1), ("splits", 1)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"got {name}=({low}, {high}); expected (from, to) with {least} ≤ from ≤ to")
        needed = max(2 * self.communities, 3 * self.cycle_length[1])
        if self.num_nodes < needed:
            raise ValueError(
                f"got num_nodes={self.num_nodes}; expected {needed} or more "
                f"for {self.communities} communities and cycles of {self.cycle_length[1]}"
            )

    @property
    def name(self) -> str:
        """Says what was generated; graphs of one name are equal."""
        return "transactions(" + ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self)) + ")"

    def events(self, start: int = 0, stop: int | None = None) -> Transactions:
        """Make the events of steps [start, stop); other steps are not made.

        Args:
            start: first step.
            stop: the step after the last; None is ``num_steps``.

        Raises:
            ValueError: steps outside 0 … num_steps.

        Example:
            >>> graph = TransactionGraph(num_nodes=100, num_steps=20, events_per_step=30, cycles_per_step=1)
            >>> events = graph.events()
            >>> int(events.source.max()) < 100, bool((np.diff(events.time) >= 0).all()), bool(events.laundering.any())
            (True, True, True)
        """
        stop = self.num_steps if stop is None else stop
        if not 0 <= start <= stop <= self.num_steps:
            raise ValueError(f"got events({start}, {stop}); expected 0 ≤ start ≤ stop ≤ {self.num_steps}")
        parts = [self._ordinary(step) for step in range(start, stop)]
        standing = self._orders if self.due == "calendar" else self._passed_on
        parts += [standing(birth, start, stop) for birth in range(start - self.order_life + 1, stop)]
        parts += [self._chains(birth) for birth in range(start - self._longest_chain + 1, stop)]
        if not parts:
            none = np.zeros(0, np.int64)
            return Transactions(none, none, none, np.zeros(0), np.zeros(0, np.bool_))
        source, target, time, amount, laundering = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept = (time >= start) & (time < stop)
        # A chain runs on although one of its accounts closes: its label would else be half true.
        kept &= laundering.astype(bool) | (self._live(source, time) & self._live(target, time))
        order = np.flatnonzero(kept)[np.argsort(time[kept], kind="stable")]
        return Transactions(source[order], target[order], time[order], amount[order], laundering[order] == 1)

    @property
    def _longest_chain(self) -> int:
        return (self.cycle_length[1] - 1) * self.hop_gap[1] + 1

    @property
    def _num_live(self) -> int:
        return self.num_nodes if not self.churn else math.ceil(self.num_nodes * _LIVE_SHARE)

    def _oldest(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Accounts open in the order of their numbers, round and round; the live ones are those after the oldest."""
        return np.floor(time * (self.churn * self._num_live)).astype(np.int64)

    def _live(self, account: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (account - self._oldest(time)) % self.num_nodes < self._num_live

    def _random(self, purpose: int, step: int) -> np.random.Generator:
        # Standing orders and chains begin before step 0 too; keys of a generator cannot be negative.
        return np.random.default_rng([self.seed, purpose, step + self.order_life + self._longest_chain])

    def _pairs(
        self, random: np.random.Generator, count: int, step: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Payers, whom they pay, and amounts."""
        source = (self._oldest(np.array(step)) + random.integers(0, self._num_live, count)) % self.num_nodes
        return source, self._payees(random, source, step), np.exp(random.normal(5.0, 0.5, count))

    def _payees(self, random: np.random.Generator, source: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        count, live = len(source), self._num_live
        age = np.floor(live * random.random(count) ** (1 / (1 - self.attachment))).astype(np.int64)
        target = (self._oldest(np.array(step)) + age) % self.num_nodes
        home = target - target % self.communities + source % self.communities
        home = np.where(home < self.num_nodes, home, home - self.communities)
        target = np.where(random.random(count) < self.mixing, target, home)
        return np.where(target == source, (target + self.communities) % self.num_nodes, target)

    def _ordinary(self, step: int) -> tuple[NDArray[np.generic], ...]:
        random = self._random(_ORDINARY, step)
        count = random.poisson(self.events_per_step * (1 - self.recurrence))
        source, target, amount = self._pairs(random, count, step)
        return source, target, np.full(count, step), amount, np.zeros(count, np.int8)

    def _orders(self, birth: int, start: int, stop: int) -> tuple[NDArray[np.generic], ...]:
        """Payments in [start, stop) of the standing orders given at a step; a payer pays all of them on one day."""
        random = self._random(_ORDERS, birth)
        count = random.poisson(self.events_per_step * self.recurrence * self.rhythm / self.order_life)
        source, target, amount = self._pairs(random, count, birth)
        begin, end = max(birth, start), min(birth + self.order_life, stop)
        first = begin + (source - begin) % self.rhythm
        payments = np.maximum(0, -((first - end) // self.rhythm))
        which = np.repeat(np.arange(count), payments)
        number = np.arange(len(which)) - np.repeat(np.cumsum(payments) - payments, payments)
        time = first[which] + number * self.rhythm
        return source[which], target[which], time, amount[which], np.zeros(len(which), np.int8)

    def _passed_on(self, birth: int, start: int, stop: int) -> tuple[NDArray[np.generic], ...]:
        """Payments in [start, stop) by which the ordinary ones of a step are passed on, from account to account."""
        _, paid, _, amount, _ = self._ordinary(birth)
        at = paid.astype(np.int64)
        random = self._random(_ORDERS, birth)
        hops: list[tuple[NDArray[np.generic], ...]] = []
        for time in range(birth + self.rhythm, min(birth + self.order_life, stop), self.rhythm):
            on = random.random(len(at)) < self.recurrence
            source, amount = at[on], amount[on]
            at = self._standing_payee(source, time)
            if time >= start:
                hops.append((source, at, np.full(len(at), time), amount, np.zeros(len(at), np.int8)))
        none = np.zeros(0, np.int64)
        return tuple(map(np.concatenate, zip(*hops, strict=True))) if hops else (none, none, none, np.zeros(0), none)

    def _standing_payee(self, account: NDArray[np.int64], time: int) -> NDArray[np.int64]:
        """Whom accounts pass money on to; each takes another payee every ``order_life`` steps, not all at once."""
        changes = (time + account % self.order_life) // self.order_life
        payee = np.empty_like(account)
        for change in np.unique(changes).tolist():
            chosen = changes == change
            step = change * self.order_life
            table = self._payees(self._random(_PAYEES, step), np.arange(self.num_nodes), step)
            payee[chosen] = table[account[chosen]]
        return payee

    def _chains(self, birth: int) -> tuple[NDArray[np.generic], ...]:
        """Payments of the cycles and the decoys that begin at a step; marked 1 and −1."""
        random = self._random(_CHAINS, birth)
        cycles, decoys = random.poisson(self.cycles_per_step), random.poisson(self.cycles_per_step * self.decoys)
        count, longest = cycles + decoys, self.cycle_length[1]
        # Steps of at least 1 around the circle of live accounts, fewer than all of it: no account twice in a chain.
        strides = random.integers(1, self._num_live // longest + 1, (count, longest - 1))
        places = np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(strides, axis=1)], axis=1)
        places += random.integers(0, self._num_live, (count, 1))
        length = random.integers(*self.cycle_length, count, endpoint=True)[:, None]
        hop = np.arange(longest)[None]
        accounts = (self._oldest(np.array(birth)) + places % self._num_live) % self.num_nodes
        source = accounts
        target = np.take_along_axis(accounts, np.where(hop + 1 < length, hop + 1, 0) % longest, axis=1)
        gaps = random.integers(*self.hop_gap, (count, longest), endpoint=True)
        gaps[:, 0] = 0
        forth = np.cumsum(gaps, axis=1)
        back = np.take_along_axis(forth, np.maximum(length - 1 - hop, 0), axis=1)
        mark = np.where(np.arange(count) < cycles, 1, -1)[:, None]
        time = birth + np.where(mark == 1, forth, back)
        amount = np.exp(random.normal(5.0, 0.5, (count, 1))) * np.cumprod(
            1 - _FEE * random.random((count, longest)), axis=1
        )
        splits = random.integers(*self.splits, (count, longest), endpoint=True)
        which = np.repeat(np.flatnonzero((hop < length).ravel()), splits.ravel()[(hop < length).ravel()])
        marks = np.broadcast_to(mark, source.shape)
        columns = [source, target, time, amount / splits, marks.astype(np.int8)]
        return tuple(column.ravel()[which] for column in columns)
