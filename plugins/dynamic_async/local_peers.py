"""Peers on this machine that the first one starts, and nothing more: each lives and dies by itself."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Set for a peer that was started by another.
NUMBER = "FULGURITE_ASYNC_PEER"
CONTACT = "FULGURITE_ASYNC_JOIN"
KEY = "FULGURITE_ASYNC_KEY"
NONCE = "FULGURITE_ASYNC_NONCE"
LIFE = "FULGURITE_ASYNC_LIFE"

_log = logging.getLogger(__name__)


def own_number() -> int:
    """Which local peer this process is: 0 started the others."""
    return int(os.environ.get(NUMBER, "0"))


def own_life() -> int:
    """How often this local peer was started before."""
    return int(os.environ.get(LIFE, "0"))


def same_command() -> list[str]:
    """The command that started this process, to start it once more."""
    import __main__

    if __main__.__spec__ is None:
        return [sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    return [sys.executable, "-m", __main__.__spec__.name, *sys.argv[1:]]


class LocalPeers:
    """Starts processes, says which of them end badly, and can start them again. None ends because another does.

    They are in this process's group: Ctrl-C reaches all. A signal to this process alone, even ``SIGKILL``, leaves them
    running.

    Args:
        command: of each.
        environment: of each, beside this process's own; secrets go here, where other users do not see them.
        restart_s: start a peer that was killed by a signal once more, after so many seconds; None: do not.
        restarts: how often in all.

    Example:
        >>> import sys
        >>> code = "import os; assert os.environ['FULGURITE_ASYNC_PEER'] in '12'"
        >>> peers = LocalPeers([sys.executable, "-c", code], {})
        >>> peers.start([1, 2])
        >>> peers.wait(60)
        {1: 0, 2: 0}
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        restart_s: float | None = None,
        restarts: int = 0,
    ) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._restart_s, self._restarts = restart_s, restarts
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[int, int] = {}
        self._lives: dict[int, int] = {}
        self._changed = threading.Condition()
        self._over = False

    def start(self, numbers: Sequence[int]) -> None:
        """Start a peer under each number."""
        with self._changed:
            for number in numbers:
                self._start(number)

    @property
    def pids(self) -> dict[int, int]:
        """Process numbers of those that run."""
        with self._changed:
            return {number: process.pid for number, process in self._processes.items()}

    def wait(self, timeout_s: float) -> dict[int, int]:
        """Wait until all have ended, and give their exit codes; those that have not are told to, and then killed.

        Nobody is started again from here on.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            self._over = True
            self._changed.notify_all()
            left = min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)
            self._changed.wait_for(lambda: not self._processes, left)
            late = dict(self._processes)
        for number, process in late.items():
            _log.warning(
                "peer %d (process %d) is still running after %g s: it is ended", number, process.pid, timeout_s
            )
        self.signal(signal.SIGTERM)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._processes, 5):
                for process in self._processes.values():
                    process.kill()
                self._changed.wait_for(lambda: not self._processes, 5)
            return dict(sorted(self._codes.items()))

    def signal(self, number: int) -> None:
        """Send a signal to all that run."""
        with self._changed:
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    def _start(self, number: int) -> None:
        # Lightning's own notices come from rank 0 alone.
        life = self._lives[number] = self._lives.get(number, -1) + 1
        own = {NUMBER: str(number), LIFE: str(life), "LOCAL_RANK": str(number)}
        environment = os.environ | self._environment | own
        process = subprocess.Popen(self._command, env=environment)
        self._processes[number] = process
        threading.Thread(target=self._watch, args=(number, process), daemon=True, name=f"peer-{number}").start()

    def _watch(self, number: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with self._changed:
            self._codes[number] = code
            again = code < 0 and self._restart_s is not None and self._restarts > 0 and not self._over
            if code and not self._over:
                _log.warning(
                    "peer %d (process %d) ended %s; the others go on%s",
                    number,
                    process.pid,
                    f"by signal {-code}" if code < 0 else f"with exit code {code}",
                    f", and it is started again in {self._restart_s:g} s" if again else "",
                )
            if again:
                self._restarts -= 1
                self._changed.wait_for(lambda: self._over, self._restart_s)
                if not self._over:
                    self._start(number)
                    return
            del self._processes[number]
            self._changed.notify_all()
