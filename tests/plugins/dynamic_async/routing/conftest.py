"""The generators of garbage.py for the tests beside it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def garbage() -> ModuleType:
    """Networks, policies and arbitrary routes (see garbage.py)."""
    spec = importlib.util.spec_from_file_location("routing_garbage", Path(__file__).with_name("garbage.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
