"""How ranks are laid out: replicas that see different batches × ranks that share one batch's snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist


@dataclass(frozen=True)
class Mesh:
    """``data × snapshot`` ranks; neighbours share a batch, so that what they exchange stays within a machine.

    Args:
        rank: this process among all.
        world_size: all processes.
        snapshot_ranks: P, how many share a batch; it divides ``world_size``.

    Raises:
        ValueError: it does not.

    Example:
        >>> mesh = Mesh(rank=5, world_size=8, snapshot_ranks=4)
        >>> mesh.data_ranks, mesh.data_rank, mesh.snapshot_rank, mesh.peers(1)
        (2, 1, 1, [4, 5, 6, 7])
    """

    rank: int
    world_size: int
    snapshot_ranks: int

    def __post_init__(self) -> None:
        if not 1 <= self.snapshot_ranks <= self.world_size or self.world_size % self.snapshot_ranks:
            divisors = [str(p) for p in range(1, self.world_size + 1) if self.world_size % p == 0]
            raise ValueError(
                f"got snapshot_ranks={self.snapshot_ranks} for {self.world_size} processes; expected a number that "
                f"divides them: choose from {', '.join(divisors)}, or leave it out to share every batch among all"
            )

    @property
    def data_ranks(self) -> int:
        """D, how many batches are worked on at once."""
        return self.world_size // self.snapshot_ranks

    @property
    def data_rank(self) -> int:
        """Which of them this process works on."""
        return self.rank // self.snapshot_ranks

    @property
    def snapshot_rank(self) -> int:
        """This process among those that share its batch."""
        return self.rank % self.snapshot_ranks

    def peers(self, data_rank: int) -> list[int]:
        """The ranks that share a batch."""
        return list(range(data_rank * self.snapshot_ranks, (data_rank + 1) * self.snapshot_ranks))

    def snapshot_group(self, timeout: timedelta | None) -> dist.ProcessGroup | None:
        """The process group of this process's peers, or None if it has none; every process has to call this.

        Args:
            timeout: of the new groups, which would not take the default group's over.
        """
        if self.snapshot_ranks == 1:
            return None
        if self.data_ranks == 1:
            return dist.group.WORLD
        rows = [self.peers(data_rank) for data_rank in range(self.data_ranks)]
        mine, _ = dist.new_subgroups_by_enumeration(rows, timeout=timeout)
        assert isinstance(mine, dist.ProcessGroup)
        return mine
