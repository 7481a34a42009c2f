"""The model runs where neither torch nor Lightning is."""

import subprocess
import sys
from pathlib import Path

from fulgurite.plugins.dynamic_async import model

MODULES = sorted(path.stem for path in Path(model.__file__).parent.glob("*.py") if path.stem != "__init__")
CODE = """
import importlib, sys
sys.modules["torch"] = sys.modules["lightning"] = None  # an import of them is an error
package = importlib.import_module("fulgurite.plugins.dynamic_async.model")
for name in {modules}:
    importlib.import_module(f"{{package.__name__}}.{{name}}")
for name in package.__all__:
    assert getattr(package, name).__name__ == name
"""


def test_no_module_of_it_needs_torch_or_lightning(tmp_path):
    assert "simulation" in MODULES
    subprocess.run([sys.executable, "-c", CODE.format(modules=MODULES)], check=True, cwd=tmp_path)


def test_names_are_handed_on():
    assert set(model.__all__) == set(model._HOMES) <= set(dir(model))
    assert list(model.__all__) == sorted(model.__all__)
