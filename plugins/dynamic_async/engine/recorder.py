"""What a peer did, written down before it tells anybody, so that a killed process leaves its log behind."""

from __future__ import annotations

import base64
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fulgurite.plugins.dynamic_async.engine.messages import Incarnation
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap
from fulgurite.plugins.dynamic_async.model.errors import TraceError
from fulgurite.plugins.dynamic_async.model.trace import value_hash

Lives = Mapping[int, Incarnation]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """A value that came into being: by joining (version 0) or by evaluation.

    Args:
        time_s: since 1970, by the host's clock; only to order what nothing else orders.
        shard: whose.
        life: its incarnation.
        version: of the value within its life.
        hash: of the value.
        tag: rounds it is certified for.
        configuration: the map's epoch that it was evaluated by.
        view: shard -> incarnation of who was in view.
        reads: (shard, incarnation, version) of each input that was read.
        joined: the joining value, where that was not the map's initial one.
    """

    time_s: float
    shard: int
    life: Incarnation
    version: int
    hash: bytes
    tag: int = 0
    configuration: int = 0
    view: Lives | None = None
    reads: tuple[tuple[int, Incarnation, int], ...] = ()
    joined: Array | None = None


class Recorder:
    """A log of one peer, one JSON line an event, handed to the system as it happens.

    A process that is killed loses nothing that others may have heard: the line is written before the value is
    published. A line torn by the kill is left out by :func:`read_log`; nobody can have read its value.

    A full disk ends the log, with an error message, and not the peer: the iteration matters more than its record. What
    others read after that is in no log, so that the logs are refused when they are merged.

    Args:
        path: the file, made with its folder; it must not exist.
        map: what is iterated.

    Attributes:
        complete: everything so far is in the log.

    Raises:
        FileExistsError: there is a log already; every process writes its own.
        OSError: not even its first line could be written.
    """

    def __init__(self, path: str | os.PathLike[str], map: DynamicMap) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        self.complete = True
        if not self._written({"map": map.fingerprint().hex(), "num_participants": map.num_participants}):
            self.close()
            raise OSError(f"the log of the run could not be begun at {path}: is the disk full?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the log."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def joined(self, shard: int, life: Incarnation, value: Array, *, initial: bool) -> None:
        """A shard came to life with a value; the value is kept where it is not the map's initial one."""
        event: dict[str, Any] = self._event(shard, life, 0, value)
        if not initial:
            kept = np.ascontiguousarray(value)
            event["value"] = [kept.dtype.str, list(value.shape), base64.b64encode(kept.tobytes()).decode()]
        self._write(event)

    def evaluated(
        self,
        shard: int,
        life: Incarnation,
        version: int,
        value: Array,
        *,
        tag: int,
        configuration: int,
        view: Lives,
        reads: Iterable[tuple[int, Incarnation, int]],
    ) -> None:
        """A shard took a new value."""
        self._write(
            self._event(shard, life, version, value)
            | {"tag": tag, "configuration": configuration}
            | {"view": [[j, *seen] for j, seen in view.items()], "reads": [[j, *seen, v] for j, seen, v in reads]}
        )

    def _event(self, shard: int, life: Incarnation, version: int, value: Array) -> dict[str, Any]:
        made = {"shard": shard, "life": list(life), "version": version, "hash": value_hash(value).hex()}
        return {"time": time.time(), **made}

    def _write(self, event: dict[str, Any]) -> None:
        if self.complete and not self._written(event):
            self.complete = False
            _log.error(
                "the log of this peer ends here, as it could not be written: is the disk full? It goes on without"
            )

    def _written(self, event: dict[str, Any]) -> bool:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        try:
            return os.write(self._file, line) == len(line)
        except OSError:
            return False


def read_log(path: str | os.PathLike[str]) -> tuple[bytes, int, list[Logged]]:
    """The map's fingerprint, its number of participants, and the events of one peer's log.

    Raises:
        TraceError: the file is no such log, or damaged elsewhere than in a torn last line.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    try:
        header = json.loads(lines[0])
        return bytes.fromhex(header["map"]), int(header["num_participants"]), [_parse(line) for line in lines[1:]]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path} is no log of a peer, or a damaged one: {error!r}") from error


def _parse(line: bytes) -> Logged:
    event = json.loads(line)
    made = event["time"], event["shard"], Incarnation(*event["life"]), event["version"], bytes.fromhex(event["hash"])
    if event["version"] == 0:
        joined = None
        if "value" in event:
            dtype, shape, raw = event["value"]
            joined = np.frombuffer(base64.b64decode(raw), dtype=dtype).reshape(shape).copy()
        return Logged(*made, joined=joined)
    return Logged(
        *made,
        tag=event["tag"],
        configuration=event["configuration"],
        view={j: Incarnation(number, host) for j, number, host in event["view"]},
        reads=tuple((j, Incarnation(number, host), version) for j, number, host, version in event["reads"]),
    )
