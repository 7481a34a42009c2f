"""Schedules for every test below: ``data.draw(schedules.schedules())``."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def schedules() -> ModuleType:
    """Hypothesis strategies of legal schedules (see schedules.py)."""
    path = Path(__file__).with_name("schedules.py")
    spec = importlib.util.spec_from_file_location("dynamic_async_schedules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
