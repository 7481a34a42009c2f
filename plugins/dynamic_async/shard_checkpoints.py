"""A file for each shard, written whole by whoever hosts it, from which the next host goes on."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array
from fulgurite.plugins.dynamic_async.shard_training import ShardTraining
from fulgurite.plugins.files import replacing

_log = logging.getLogger(__name__)


class ShardCheckpoints:
    """``shard-0003.pt`` and so on in a folder that the peers share or not.

    A file that cannot be written (a full disk) is a warning on that peer, once; training goes on. One that cannot be
    read, is of another model or outside X is left alone with a warning, and the shard begins as if there were none.
    What a certificate needs is not taken from files: each run verifies it.

    Args:
        folder: made when the first file is written.
        training: whose shards.
        every_s: seconds between two files of a shard.
    """

    def __init__(self, folder: Path, training: ShardTraining, *, every_s: float = 5.0) -> None:
        self._folder, self._training, self._every_s = folder, training, every_s
        self._next: dict[int, float] = {}
        self._warned = False

    def path(self, shard: int) -> Path:
        """Where a shard's file is."""
        return self._folder / f"shard-{shard:04d}.pt"

    def save(self, *, now: bool = False) -> None:
        """Write the hosted shards whose time has come; all of them if ``now``."""
        blocks = self._training.peer.blocks()
        for shard in self._training.peer.hosted:
            if shard not in blocks or not (now or time.monotonic() >= self._next.get(shard, 0.0)):
                continue
            self._next[shard] = time.monotonic() + self._every_s
            block = blocks[shard]
            content = {
                "fingerprint": self._training.map.fingerprint().hex(),
                "value": torch.from_numpy(block.value.copy()),
                "incarnation": list(block.incarnation),
                "evaluations": self._training.counts.get(shard, 0),
                "radius": self._training.map.radius,
                "optimizer": self._training.optimizer_state(shard),
            }
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with replacing(self.path(shard)) as temporary:
                    torch.save(content, temporary)
            except (OSError, RuntimeError) as error:  # torch.save raises either where a disk is full
                if not self._warned:
                    _log.warning(
                        "shard %d could not be written to %s: %s; training goes on", shard, self._folder, error
                    )
                self._warned = True

    def load(self, shard: int) -> Array | None:
        """The value to join with: the file's, if it is there, of this model, and in X; None: there is none."""
        path = self.path(shard)
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if content["fingerprint"] != self._training.map.fingerprint().hex():
                _log.warning(
                    "%s is of another model, data cut or lam, or learning rate: shard %d does not begin from it",
                    path,
                    shard,
                )
                return None
            value: Array = content["value"].numpy()
            count, state, radius = int(content["evaluations"]), content["optimizer"], content["radius"]
            if not self._training.map.contains(shard, value):
                raise ValueError("its value is not of the parameters' shape and type, not finite, or outside X")
            # The file was written within the X of its time.
            if (
                radius is not None
                and not self._training.map.distance(shard, value, self._training.map.centre) <= radius
            ):
                raise ValueError("its value is outside the domain X of its run")
            if count < self._training.counts.get(shard, 0) and self._training.peer.last_heard(shard) is not None:
                self._training.load_optimizer_state(shard, state)
                return None  # what was heard of the shard is newer
            self._training.join_from(shard, value, count, state)
        except Exception as error:  # whatever a damaged file may raise
            _log.warning("%s cannot be used (%s): shard %d does not begin from it", path, error, shard)
            return None
        return value
