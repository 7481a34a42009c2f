"""A plan: for every number of ranks the memory, time and settings to expect, and which of them to take."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fulgurite.plugins.files import write_text
from fulgurite.plugins.snapshot_parallel.calibration import Link
from fulgurite.plugins.snapshot_parallel.memory import MemoryPlan
from fulgurite.plugins.snapshot_parallel.partitioning import Balance
from fulgurite.plugins.snapshot_parallel.statistics import Statistics


@dataclass(frozen=True)
class PlanRow:
    """What is predicted for one number of ranks. All of it is predicted; only ``compute`` may rest on a run.

    Args:
        ranks: P.
        memory: bytes on the rank that needs most, with the blocks and collectives that were chosen.
        fits: whether that is within the device's memory.
        idle: ranks that own no snapshot in any block.
        exchange: what the temporal phase moves: "all-to-all", "halo", "gather", mixes joined by "+", or "none".
        compute: seconds of forward and backward on the rank that takes longest.
        basis: "replayed": this shard itself ran here; "scaled": it ran over fewer vertices; "fitted": only shards of
            other numbers of ranks ran.
        transfer: seconds of host-to-device copies in each step, 0 where everything stays resident.
        calls: collectives of a step.
        sent: bytes that the rank that sends most sends to others in a step, gradients included.
        total_sent: bytes that all ranks send to others in a step, gradients included.
        communication: seconds of them by the link's α and β.
        speedup: the predicted step of one rank over this one's.
    """

    ranks: int
    memory: MemoryPlan
    fits: bool
    idle: int
    exchange: str
    compute: float
    basis: Literal["replayed", "scaled", "fitted"]
    transfer: float
    calls: int
    sent: int
    total_sent: int
    communication: float
    speedup: float = 1.0

    @property
    def step(self) -> float:
        """Seconds of a step: compute, transfer and communication one after another, nothing overlapped."""
        return self.compute + self.transfer + self.communication

    @property
    def efficiency(self) -> float:
        """Speed-up over ranks; 1 is perfect."""
        return self.speedup / self.ranks

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {
            "memory": self.memory.to_dict(),
            "step": self.step,
            "efficiency": self.efficiency,
        }


@dataclass(frozen=True)
class Plan:
    """Predictions over numbers of ranks, and what they rest on.

    Args:
        network: the network's name.
        statistics: the timeline's size.
        link: what joins the ranks.
        device: where compute was measured, in words.
        memory_bytes: of one rank's device.
        rows: by rising numbers of ranks.
        efficiency: the least efficiency that a recommendation may have.
        balance: the cost by which snapshots are dealt out.
        notes: what the reader must know.
    """

    network: str
    statistics: Statistics
    link: Link
    device: str
    memory_bytes: int
    rows: tuple[PlanRow, ...]
    efficiency: float = 0.5
    balance: Balance = "nnz"
    notes: tuple[str, ...] = ()

    @property
    def recommended(self) -> PlanRow | None:
        """The fastest row that fits, is efficient enough and leaves no rank idle; if none is, the fewest that fit."""
        fitting = [row for row in self.rows if row.fits]
        fitting = [row for row in fitting if not row.idle] or fitting
        efficient = [row for row in fitting if row.efficiency >= self.efficiency]
        if efficient:
            return min(efficient, key=lambda row: (row.step, row.ranks))
        return fitting[0] if fitting else None

    @property
    def reason(self) -> str:
        """Why that row, in a sentence."""
        row = self.recommended
        if row is None:
            least = min(self.rows, key=lambda row: row.memory.total)
            blocks = least.memory.blocks
            return (
                f"Nothing fits: even {_counted(least.ranks, 'rank')} with {_counted(blocks, 'block')} "
                f"{'needs' if least.ranks == 1 else 'need'} {size(least.memory.total)} each, "
                f"there are {size(self.memory_bytes)}."
            )
        said = [f"{_counted(row.ranks, 'rank')}: {self._why_ranks(row)}", _why_blocks(row)]
        if row.ranks > 1:
            said.append(_why_exchange(row))
        return "; ".join(part for part in said if part) + "."

    def _why_ranks(self, row: PlanRow) -> str:
        if row.efficiency < self.efficiency:
            return f"none that fits reaches an efficiency of {self.efficiency:.0%}, so the fewest that fit"
        if row is self.rows[-1]:
            return "the fastest that was looked at"
        following = self.rows[self.rows.index(row) + 1]
        if following.idle:
            return "more would leave ranks without a snapshot"
        if following.step >= row.step:
            return "more would not be faster"
        return f"the fastest with an efficiency of at least {self.efficiency:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        row = self.recommended
        return {
            "kind": "dynamic-gnn plan",
            "predicted": True,
            "network": self.network,
            "statistics": self.statistics.to_dict(),
            "link": self.link.to_dict(),
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "efficiency": self.efficiency,
            "rows": [entry.to_dict() for entry in self.rows],
            "recommended": None
            if row is None
            else {
                "ranks": row.ranks,
                "blocks": row.memory.blocks,
                "collectives": row.memory.collectives,
                "exchange": row.exchange,
                "balance": self.balance,
            },
            "reason": self.reason,
            "notes": list(self.notes),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def with_speedups(rows: Sequence[PlanRow], single: float) -> tuple[PlanRow, ...]:
    """The rows with their speed-ups over the step of one rank, in seconds."""
    return tuple(replace(row, speedup=single / row.step) for row in rows)


def size(count: float) -> str:
    """Bytes in words.

    Example:
        >>> size(1234), size(5.6e9), size(0)
        ('1.23 kB', '5.6 GB', '0 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(0.00123), duration(75), duration(2.5e-5)
        ('1.23 ms', '75 s', '25 µs')
    """
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _why_blocks(row: PlanRow) -> str:
    blocks, collectives = row.memory.blocks, row.memory.collectives
    if blocks == 1 and collectives == "none":
        return "1 block: everything fits without re-computation"
    kept = {
        "save": "what collectives bring is kept, since that fits: nothing is sent twice",
        "resend": "keeping what collectives bring would not fit, so it is sent again",
        "none": "without checkpoints",
    }[collectives]
    return f"{_counted(blocks, 'block')}, the fewest that fit; {kept}"


def _why_exchange(row: PlanRow) -> str:
    return {
        "all-to-all": "all-to-all: the temporal phase needs each vertex's whole line",
        "halo": "halo: a few frames of the neighbours are less than an all-to-all both ways",
        "gather": "only summaries are gathered",
        "none": "no exchange but the gradients'",
    }.get(row.exchange, row.exchange)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
