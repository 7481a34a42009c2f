"""Schedules for every test below, ``data.draw(schedules.schedules())``, and small fits of the strategy."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def beside(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"dynamic_async_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def schedules() -> ModuleType:
    """Hypothesis strategies of legal schedules (see schedules.py)."""
    return beside("schedules")


@pytest.fixture(scope="session")
def fits() -> ModuleType:
    """Small fits under the strategy, in this process and in others (see fits.py)."""
    return beside("fits")
