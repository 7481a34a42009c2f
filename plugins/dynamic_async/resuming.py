"""What a Trainer's checkpoint holds of training by shards, so that ``ckpt_path`` goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fulgurite.plugins.dynamic_async.shard_training import ShardTraining
from fulgurite.plugins.dynamic_async.training_map import TrainingMap

KEY = "dynamic_async"


def kept(training: ShardTraining) -> dict[str, Any]:
    """Every shard's newest value that was heard of, its count, and the optimizer's state of those hosted here.

    Plain types and tensors, as ``torch.load(..., weights_only=True)`` reads them.
    """
    shared, peer = training.map, training.peer
    blocks, hosted = peer.blocks(), set(peer.hosted)
    shards = {}
    for i in range(shared.num_participants):
        value = blocks[i].value if i in blocks else peer.last_heard(i)
        if value is not None:
            shards[i] = {
                "value": _tensor(value),
                "evaluations": training.counts.get(i, 0),
                "optimizer": training.optimizer_state(i) if i in hosted else {},
            }
    return {
        "fingerprint": shared.fingerprint().hex(),
        "setting": {"shards": shared.shards, "lam": shared.coupling, "topology": shared.topology},
        "centre": _tensor(shared.centre),
        "shards": shards,
    }


@dataclass(frozen=True)
class Resumed:
    """What :func:`kept` kept.

    Args:
        centre: (d,) the parameters at the very start.
        fingerprint: of the map.
        setting: the strategy's options then.
        shards: shard -> value, evaluations and the optimizer's state.
    """

    centre: np.ndarray[Any, Any]
    fingerprint: str
    setting: Mapping[str, Any]
    shards: Mapping[int, Mapping[str, Any]]

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> Resumed | None:
        """Of a checkpoint; None: of another strategy, or of weights only."""
        found = checkpoint.get(KEY)
        if found is None:
            return None
        return cls(found["centre"].numpy(), found["fingerprint"], found["setting"], found["shards"])

    def check(self, shared: TrainingMap) -> None:
        """Refuse to go on with another map.

        Raises:
            ValueError: another model, cut of the data, λ, topology, learning rate or stated bounds.
        """
        if shared.fingerprint().hex() != self.fingerprint:
            then = ", ".join(f"{name}={value}" for name, value in self.setting.items())
            now = f"shards={shared.shards}, lam={shared.coupling}, topology={shared.topology}"
            raise ValueError(
                f"the checkpoint is of a training with {then}; got {now}, or another model, optimizer, learning rate "
                "or objective_bounds(): expected the same as then; to begin anew from its weights, load them by "
                "load_from_checkpoint and leave out ckpt_path"
            )

    def counts(self, shards: int) -> dict[int, int]:
        """Shard -> evaluations."""
        return {i: int(self.shards[i]["evaluations"]) for i in range(shards) if i in self.shards}

    def load(self, training: ShardTraining, shard: int) -> np.ndarray[Any, Any] | None:
        """The value to join with; None once anything newer has been heard of the shard."""
        entry = self.shards.get(shard)
        if entry is None or training.peer.last_heard(shard) is not None:
            return None
        if training.counts.get(shard, 0) > int(entry["evaluations"]):
            return None
        value: np.ndarray[Any, Any] = entry["value"].numpy()
        if not training.map.contains(shard, value):
            return None
        training.join_from(shard, value, int(entry["evaluations"]), entry["optimizer"])
        return value


def _tensor(value: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(value))
