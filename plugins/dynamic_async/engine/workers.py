"""Worker processes of one run, started, watched, killed and woken: for tests and measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from fulgurite.plugins.dynamic_async.engine.keys import VARIABLE, new_run, shared_key
from fulgurite.plugins.dynamic_async.engine.worker import Work
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array


class Workers:
    """Processes that iterate one map; each knows those that were ready when it was started.

    Nothing is left behind: whoever is still there when the ``with`` block ends is killed, and a worker ends by itself
    when this process is gone.

    Args:
        work: what each does; its run's name is drawn here.
        folder: for logs (``*.jsonl``, if ``record``) and what they say beside.
        record: every worker writes a log.
        timeout_s: ``until`` and ``start`` wait so long at most.
    """

    def __init__(self, work: Work, folder: Path, *, record: bool = False, timeout_s: float = 60.0) -> None:
        self._work = replace(work, run=new_run())
        self._folder, self._record, self._timeout_s = folder, record, timeout_s
        self._key = shared_key(work.listen).text
        self._changed = threading.Condition()
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._errors: list[IO[str]] = []
        self._said: list[dict[str, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for k in range(len(self._processes)):
            self.kill(k)

    @property
    def logs(self) -> list[Path]:
        """Of all that ever ran."""
        return sorted(self._folder.glob("worker-*.jsonl"))

    def start(self, count: int = 1, **changes: Any) -> list[int]:
        """Start so many at once, and wait until they are ready; their numbers here."""
        contacts = tuple(said["ready"]["address"] for said in self._said if "ready" in said)[:8]
        started = []
        for _ in range(count):
            k = len(self._processes)
            own: dict[str, Any] = {"contacts": contacts, "salt": k} | changes
            if self._record:
                own["log"] = str(self._folder / f"worker-{k}.jsonl")
            if k == 0 or contacts:
                started.append(self._start(replace(self._work, **own)))
                continue
            # The very first ones: the others need somebody to turn to.
            self.until(lambda: "ready" in self._said[0])
            own["contacts"] = (self._said[0]["ready"]["address"],)
            started.append(self._start(replace(self._work, **own)))
        self.until(lambda: all("ready" in self._said[k] for k in started))
        return started

    def status(self, k: int) -> dict[str, Any]:
        """What a worker last said of how it stands; empty before that."""
        return self._said[k].get("status", {})

    def address(self, k: int) -> str:
        """Where a worker listens."""
        return str(self._said[k]["ready"]["address"])

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not in time; with what each worker said last.
        """
        with self._changed:
            if not self._changed.wait_for(reached, self._timeout_s):
                raise TimeoutError(
                    f"not reached within {self._timeout_s} s; the workers:\n" + "\n".join(self._report())
                )

    def send(self, k: int, command: str) -> None:
        """Say something to a worker."""
        pipe = self._processes[k].stdin
        assert pipe is not None
        pipe.write(command + "\n")
        pipe.flush()

    def state(self, k: int) -> list[Array]:
        """The whole state as a worker sees it now."""
        path = self._folder / f"state-{k}-{time.monotonic_ns()}.npz"
        self.send(k, f"save {path}")
        self.until(lambda: self._said[k].get("saved", {}).get("path") == str(path))
        with np.load(path) as stored:
            return [stored[f"arr_{i}"] for i in range(len(stored.files))]

    def signal(self, k: int, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP."""
        self._processes[k].send_signal(number)

    def kill(self, k: int) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._processes[k]
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(30)
        self._readers[k].join(30)
        for pipe in (process.stdin, process.stdout, self._errors[k]):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def stop(self, k: int) -> None:
        """Have one of them stop the iteration, and wait until all have ended by themselves."""
        self.send(k, "stop")
        for process in self._processes:
            process.wait(self._timeout_s)

    def _start(self, work: Work) -> int:
        errors = (self._folder / f"errors-{len(self._processes)}.txt").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "fulgurite.plugins.dynamic_async.engine.worker", work.json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {VARIABLE: self._key, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        k = len(self._processes)
        self._processes.append(process)
        self._errors.append(errors)
        self._said.append({})
        self._readers.append(threading.Thread(target=self._read, args=(k,), daemon=True))
        self._readers[k].start()
        return k

    def _read(self, k: int) -> None:
        pipe = self._processes[k].stdout
        assert pipe is not None
        for line in pipe:
            with suppress(ValueError):  # a line torn by a kill
                said = json.loads(line)
                with self._changed:
                    self._said[k][said["event"]] = said
                    self._changed.notify_all()

    def _report(self) -> Iterator[str]:
        for k, process in enumerate(self._processes):
            yield f"{k}: exit {process.poll()}, said {self._said[k].get('status')}"
            yield Path(self._errors[k].name).read_text()[-2000:]
