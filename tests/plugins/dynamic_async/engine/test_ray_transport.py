"""The Ray transport passes what every transport passes, on a cluster of one CPU that lives for one test."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.ray_transport import RayTransport
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

SCRIPT = Path(__file__).with_name("ray_scenarios.py")
CODEC = Codec(b"k" * 32, b"n" * 16, b"m" * 16)


def processes_of(folder: str) -> list[int]:
    """Processes with the folder on their command line: Ray's daemons and workers, which leave the process group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.encode() in line and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


@pytest.fixture
def folder():
    """A folder with a name short enough for Ray's sockets; who still works in it at the end is ended."""
    path = tempfile.mkdtemp(prefix="fray", dir="/tmp")
    yield path
    for process in processes_of(path):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.distributed
def test_scenarios(folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    result = subprocess.run(
        [sys.executable, SCRIPT, folder], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("all done\n")


def test_ray_missing_or_a_wrong_address_is_said(monkeypatch):
    with pytest.raises(TransportError, match="ray://peer-1"):
        RayTransport(codec=CODEC, address="tcp://127.0.0.1:5000")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TransportError, match=r"fulgurite\[ray\]"):
        RayTransport(codec=CODEC)
