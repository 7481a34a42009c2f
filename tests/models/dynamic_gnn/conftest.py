"""The fixture that runs a function on several ranks."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

RANKS = Path(__file__).resolve().parents[2] / "plugins" / "snapshot_parallel" / "ranks.py"


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list]:
    """``run_ranks(function, world_size, *args, timeout=60)``: what each gloo rank returned (see ranks.py)."""
    spec = importlib.util.spec_from_file_location("snapshot_parallel_ranks", RANKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_ranks
