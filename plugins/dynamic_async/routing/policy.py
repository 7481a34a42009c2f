"""What a router does with a route that a neighbour announces: rules with conditions, as text and as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError

MOST_PREFERENCE = 65535
MOST_TAG = 61  # communities are bits of one whole number
ACTIONS = ("reject", "lower", "prefer", "tag", "untag")
TESTS = ("tag", "through", "path")


@dataclass(frozen=True)
class Condition:
    """What must hold of the announced route.

    Attributes:
        test: ``tag``: it carries this community; ``through``: this node is on its path; ``path``: this is its path,
            from the neighbour to the destination.
        numbers: the community, the node, or the path's nodes.
        negated: whether it must not hold.
    """

    test: str
    numbers: tuple[int, ...]
    negated: bool = False

    def holds(self, path: Sequence[int], tags: int) -> bool:
        """Whether it holds of a route with this path (the neighbour's) and these communities."""
        if self.test == "path":
            found = tuple(path) == self.numbers
        else:
            found = self.numbers[0] in path if self.test == "through" else bool(tags >> self.numbers[0] & 1)
        return found != self.negated


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        action: ``reject`` the route; ``lower`` its preference by ``value``; ``prefer`` it with exactly ``value``
            whatever came with it (BGP's own, with which a policy need not be increasing); ``tag`` or ``untag`` it with
            the community ``value``.
        value: a number; 0 for ``reject``.
        conditions: all must hold.
    """

    action: str
    value: int = 0
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Policy:
    """Rules that are applied one after another to every route that comes over a link.

    Example:
        >>> policy = Policy((Rule("lower", 10), Rule("reject", 0, (Condition("tag", (7,)),))))
        >>> policy.apply(100, 0, (3, 0)), policy.apply(100, 1 << 7, (3, 0))
        ((90, 0), None)
    """

    rules: tuple[Rule, ...] = ()

    def apply(self, preference: int, tags: int, path: Sequence[int]) -> tuple[int, int] | None:
        """Preference and communities afterwards, or None for a route that is rejected."""
        for rule in self.rules:
            if not all(condition.holds(path, tags) for condition in rule.conditions):
                continue
            if rule.action == "reject":
                return None
            if rule.action == "lower":
                preference = max(0, preference - rule.value)
            elif rule.action == "prefer":
                preference = rule.value
            else:
                bit = 1 << rule.value
                tags = tags | bit if rule.action == "tag" else tags & ~bit
        return preference, tags

    @property
    def only_lowers(self) -> bool:
        """Whether no rule can make a route better than it came."""
        return all(rule.action != "prefer" for rule in self.rules)


def parse_policy(text: str, node: Callable[[str], int]) -> Policy:
    """Read rules such as ``lower 10 if tag 7; reject if through C and not path B A``.

    A rule is an action (``reject``, ``lower N``, ``prefer N``, ``tag N``, ``untag N``) and, after ``if``, conditions
    joined by ``and``: ``tag N``, ``through NODE``, ``path NODE …``, each perhaps after ``not``. ``accept`` alone is the
    policy without rules.

    Args:
        text: rules, separated by ``;``.
        node: gives a name's number.

    Raises:
        AlgebraError: what is wrong with which rule.

    Example:
        >>> parse_policy("prefer 200 if path 3 0", int).rules[0].conditions[0].numbers
        (3, 0)
    """
    if text.strip() == "accept":
        return Policy()
    return Policy(tuple(_rule(part.strip(), node) for part in text.split(";")))


def _rule(text: str, node: Callable[[str], int]) -> Rule:
    head, found, tail = text.partition(" if ")
    words = head.split()
    if not words or words[0] not in ACTIONS or len(words) != (1 if words[0] == "reject" else 2):
        raise AlgebraError(
            f"rule {text!r}: expected reject, lower N, prefer N, tag N or untag N, and perhaps 'if' and conditions"
        )
    most = MOST_TAG if words[0] in ("tag", "untag") else MOST_PREFERENCE
    value = 0 if words[0] == "reject" else _number(words[1], most, text)
    conditions = tuple(_condition(part.split(), text, node) for part in re.split(r"\band\b", tail)) if found else ()
    return Rule(words[0], value, conditions)


def _condition(words: list[str], text: str, node: Callable[[str], int]) -> Condition:
    negated = words[:1] == ["not"]
    words = words[negated:]
    if len(words) < 2 or words[0] not in TESTS or (words[0] != "path" and len(words) > 2):
        raise AlgebraError(f"rule {text!r}: expected tag N, through NODE or path NODE … as condition")
    if words[0] == "tag":
        return Condition("tag", (_number(words[1], MOST_TAG, text),), negated)
    return Condition(words[0], tuple(map(node, words[1:])), negated)


def _number(word: str, most: int, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", word, re.ASCII) or int(word) > most:
        raise AlgebraError(f"rule {text!r}: got {word!r}, expected a whole number from 0 to {most}")
    return int(word)


def policy_table(policies: Iterable[Policy]) -> NDArray[np.int64]:
    """(P, L) whole numbers, a policy a row, filled up with zeros; what the compiled kernels read.

    A row is the number of rules; for each rule its action, value and number of conditions; for each condition 1 if it
    is negated, its test, and how many numbers follow.
    """
    rows = []
    for policy in policies:
        row = [len(policy.rules)]
        for rule in policy.rules:
            row += [ACTIONS.index(rule.action), rule.value, len(rule.conditions)]
            for condition in rule.conditions:
                row += [int(condition.negated), TESTS.index(condition.test), len(condition.numbers)]
                row += condition.numbers
        rows.append(row)
    table = np.zeros((max(1, len(rows)), max(map(len, rows), default=1)), dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table
