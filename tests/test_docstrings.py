"""Every docstring example runs, on the modules as they are imported (a second copy would register operators twice)."""

import doctest
import importlib
import os
import pkgutil

import pytest

KINDS = ("plugins", "callbacks", "models", "data", "recipes")


def modules() -> list[str]:
    found = []
    for kind in KINDS:
        package = importlib.import_module(f"fulgurite.{kind}")
        found += [info.name for info in pkgutil.walk_packages(package.__path__, prefix=f"fulgurite.{kind}.")]
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert os.listdir(tmp_path) == [], "an example leaves files behind"
