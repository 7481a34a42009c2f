"""Who logs and writes checkpoints: the host of the first shard, as far as each process knows."""

from __future__ import annotations

import json
import logging
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from fulgurite.plugins.dynamic_async.engine.peer import Peer

_log = logging.getLogger(__name__)
_NOTE = "log"


class Leading:
    """Whether this process leads, and where the leader before it has logged.

    It is advice, not a lock: for as long as two processes have heard different things, both may log, or neither.

    Args:
        first: this process leads until shards are hosted.

    Attributes:
        leads: at the moment.
    """

    def __init__(self, *, first: bool) -> None:
        self.leads = first
        self._versions: dict[str, Any] = {}
        self._former: int | None = None

    def follow(self, trainer: pl.Trainer, peer: Peer) -> None:
        """Look who hosts the first shard; take over where it is this process now."""
        first = peer.blocks().get(0)
        # Not heard of yet, or its host died a moment ago: it will have another one soon.
        if first is None:
            return
        for number, note in peer.notes().items():
            if number != peer.number and _NOTE in note:
                self._versions |= _read(note[_NOTE])
        leads = first.incarnation.host == peer.number
        if leads and not self.leads:
            self._take_over(trainer)
        elif self.leads and not leads:
            self._set_rank(1)
        self.leads = leads
        if leads and _NOTE not in peer.note:
            peer.note[_NOTE] = json.dumps({str(k): v for k, v in log_versions(trainer).items()})

    def _take_over(self, trainer: pl.Trainer) -> None:
        self._set_rank(0)
        adopt_versions(trainer, self._versions)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                _put_aside(Path(logger.log_dir) / "metrics.csv")
        _log.warning("this process logs and writes checkpoints from now on")

    def give_back(self) -> None:
        """Let other Trainers of this process log as they would have without this one."""
        if self._former is not None:
            rank_zero_only.rank = self._former  # type: ignore[attr-defined]
            self._former = None

    def _set_rank(self, rank: int) -> None:
        # Lightning's loggers write where this is 0.
        if self._former is None:
            self._former = int(getattr(rank_zero_only, "rank", 0) or 0)
        rank_zero_only.rank = rank  # type: ignore[attr-defined]


def _put_aside(path: Path) -> None:
    """Rename what the leader before has written, which Lightning's CSVLogger would delete."""
    if path.is_file():
        number = next(k for k in count() if not path.with_suffix(f".{k}.csv").exists())
        path.rename(path.with_suffix(f".{number}.csv"))


def _read(text: object) -> dict[str, Any]:
    """The versions in another peer's note; nothing of anything else."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return {}
    good = isinstance(found, dict) and all(isinstance(version, int | str) for version in found.values())
    return found if good else {}


def log_versions(trainer: pl.Trainer) -> dict[int, int | str]:
    """Which version each logger writes: of every logger that has one."""
    found = {}
    for number, logger in enumerate(trainer.loggers):
        version = logger.version
        if isinstance(version, int | str):
            found[number] = version
    return found


def adopt_versions(trainer: pl.Trainer, versions: dict[str, Any]) -> None:
    """Let each logger go on in the folder that another process has chosen."""
    for number, logger in enumerate(trainer.loggers):
        # Lightning's loggers that number their folders keep the number here, and choose one where there is none.
        if str(number) in versions and hasattr(logger, "_version"):
            logger._version = versions[str(number)]
