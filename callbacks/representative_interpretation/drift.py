"""What becomes of groups from one pass to the next: which group is which, and how many of its images it kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

Members = tuple[int, tuple[int, ...]]  # the class that a group stands for, and the references that it covers


@dataclass(frozen=True)
class Pair:
    """A group before and the group that it became.

    Attributes:
        label: the class.
        before: number of the group in the earlier pass, ``None`` for a class that is new.
        after: its number in the later pass, ``None`` for a class that is gone.
        jaccard: images in both over images in either.
    """

    label: int
    before: int | None
    after: int | None
    jaccard: float


def match(before: Sequence[Members], after: Sequence[Members]) -> tuple[Pair, ...]:
    """Match the groups of two passes, class by class, so that matched groups share as many images as they can.

    The similarity of two groups A and B is their Jaccard index |A ∩ B| / |A ∪ B|; of all ways to pair the groups of a
    class, the one of the largest sum is taken (:func:`scipy.optimize.linear_sum_assignment`). Where one pass has more
    groups of a class than the other, the surplus has no partner and does not count; a class with groups in one pass
    only counts as a pair of similarity 0.

    Args:
        before: the earlier pass's groups.
        after: the later pass's.

    Example:
        >>> match([(3, (0, 1, 2)), (3, (7, 8))], [(3, (7, 8)), (3, (1, 2, 5))])
        (Pair(label=3, before=0, after=1, jaccard=0.5), Pair(label=3, before=1, after=0, jaccard=1.0))
    """
    pairs = []
    for label in sorted({group[0] for group in (*before, *after)}):
        old = [number for number, group in enumerate(before) if group[0] == label]
        new = [number for number, group in enumerate(after) if group[0] == label]
        if not old or not new:
            pairs.append(Pair(label, old[0] if old else None, new[0] if new else None, 0.0))
            continue
        table = np.array([[jaccard(before[a][1], after[b][1]) for b in new] for a in old])
        rows, columns = linear_sum_assignment(table, maximize=True)
        pairs += [
            Pair(label, old[row], new[column], float(table[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    return tuple(pairs)


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """Indices in both over indices in either; 1 for two empty sets.

    Example:
        >>> jaccard([1, 2, 3], [2, 3, 4])
        0.5
    """
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


@dataclass(frozen=True)
class Snapshot:
    """What is remembered of a pass, small enough for a checkpoint.

    Attributes:
        epoch: the epoch, from 0, in or after which it was made.
        step: the optimizer step.
        kind: ``light`` or ``full``.
        cut: where the network was cut.
        sample: fingerprint of the reference images.
        groups: each group's class and members.
        values: the numbers for loggers.
    """

    epoch: int
    step: int
    kind: str
    cut: str
    sample: str
    groups: tuple[Members, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)

    def since(self, earlier: "Snapshot | None") -> tuple[Pair, ...]:
        """Groups matched with an earlier pass's; none where the two looked at other images or at another cut."""
        if earlier is None or (earlier.sample, earlier.cut) != (self.sample, self.cut):
            return ()
        return match(earlier.groups, self.groups)

    def state(self) -> dict[str, Any]:
        """As plain types."""
        names = ("epoch", "step", "kind", "cut", "sample")
        groups = [[label, list(members)] for label, members in self.groups]
        return {**{name: getattr(self, name) for name in names}, "groups": groups, "values": dict(self.values)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> "Snapshot":
        """The snapshot behind :meth:`state`.

        Example:
            >>> snapshot = Snapshot(0, 10, "light", "conv", "ab", ((1, (0, 2)),), {"coverage": 0.5})
            >>> Snapshot.restore(snapshot.state()) == snapshot
            True
        """
        groups = tuple((int(label), tuple(map(int, members))) for label, members in state["groups"])
        return cls(**{**state, "groups": groups, "values": dict(state["values"])})


def mean_jaccard(pairs: Sequence[Pair]) -> float:
    """Mean similarity of matched groups; nan without any.

    Example:
        >>> mean_jaccard([Pair(0, 0, 0, 1.0), Pair(1, 1, None, 0.0)])
        0.5
    """
    return float(np.mean([pair.jaccard for pair in pairs])) if pairs else float("nan")
