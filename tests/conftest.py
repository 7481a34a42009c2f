"""Fixtures for every test: where the real data lies, and guards against what a test may leave behind."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests use tiny networks, for which several threads only wait for each other; more so where tests share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (``$FULGURITE_DATA``), or a skip with the reason."""
    folder = Path(os.environ.get("FULGURITE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there; set $FULGURITE_DATA")
    return folder


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    """A test leaves no threads that keep the process alive and none of our variables; others' are put back."""
    variables = dict(os.environ)
    threads = set(threading.enumerate())
    yield
    changed = {name for name in {*variables, *os.environ} if variables.get(name) != os.environ.get(name)}
    os.environ.clear()
    os.environ.update(variables)
    left = [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]
    # Lightning and torch set some variables for good; tests of ours must not add others.
    ours = {name for name in changed if name.startswith("FULGURITE")}
    assert not ours, f"environment variables left changed: {sorted(ours)}"
    assert not left, f"threads left running: {[thread.name for thread in left]}"
