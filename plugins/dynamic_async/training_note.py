"""What peers tell each other about training, beside the shards' values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fulgurite.plugins.dynamic_async.training_map import ShardFacts

# With more shards their facts would not fit into a bulletin's note.
MOST_SHARDS = 4096


@dataclass(frozen=True)
class TrainingNote:
    """One peer's word.

    Args:
        counts: shard -> evaluations so far, by whichever hosts, as far as heard.
        facts: shard -> what a certificate needs.
        losses: shard -> loss of the newest evaluation, of the shards that it hosts.
        data: of the training data, the same where they are.
        since: evaluations that had been heard of when it began: the greater, the later it came.
        reach: how far from the start the furthest value was that joined.
        conflict: why nothing can be certified.

    Example:
        >>> note = TrainingNote(counts={0: 3}, losses={0: 0.5}, data="7 samples")
        >>> TrainingNote.read(note.write(), shards=2) == note
        True
        >>> TrainingNote.read('{"counts": {"9": 1}}', shards=2) is None
        True
    """

    counts: Mapping[int, int] = field(default_factory=dict)
    facts: Mapping[int, ShardFacts] = field(default_factory=dict)
    losses: Mapping[int, float] = field(default_factory=dict)
    data: str = ""
    since: int = 0
    reach: float = 0.0
    conflict: str = ""

    def write(self) -> str:
        """As text."""
        said = {
            "counts": self.counts,
            "facts": {i: list(asdict(facts).values()) for i, facts in self.facts.items()},
            "losses": {i: loss for i, loss in self.losses.items() if math.isfinite(loss)},
            "data": self.data,
            "since": self.since,
            "reach": self.reach,
            "conflict": self.conflict,
        }
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def read(cls, text: object, shards: int) -> TrainingNote | None:
        """What :meth:`write` wrote; None of anything else, such as another version's."""
        try:
            said: dict[str, Any] = json.loads(str(text))
            return cls(
                {_shard(k, shards): _count(v) for k, v in said["counts"].items()},
                {_shard(k, shards): _facts(*v) for k, v in said["facts"].items()},
                {_shard(k, shards): _number(v, least=-math.inf) for k, v in said["losses"].items()},
                str(said["data"]),
                _count(said["since"]),
                _number(said["reach"]),
                str(said["conflict"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None


def _shard(key: str, shards: int) -> int:
    if not 0 <= int(key) < shards:
        raise ValueError
    return int(key)


def _count(value: Any) -> int:
    if not 0 <= int(value) < 1 << 62:
        raise ValueError
    return int(value)


def _number(value: Any, least: float = 0.0) -> float:
    if not math.isfinite(float(value)) or not float(value) >= least:
        raise ValueError
    return float(value)


def _facts(loss: Any, slope: Any, spread: Any, rows: Any, data: Any) -> ShardFacts:
    return ShardFacts(str(loss), _number(slope), _number(spread), _count(rows), str(data))
