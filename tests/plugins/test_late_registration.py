import subprocess
import sys

import pytest

NAMES = {
    "fulgurite.plugins.dynamic_async": ("dynamic_async", "DynamicAsyncStrategy"),
    "fulgurite.plugins.snapshot_parallel": ("snapshot_parallel", "SnapshotParallelStrategy"),
}
USE = """
from lightning.pytorch import Trainer
trainer = Trainer(accelerator="cpu", devices=1, strategy={!r}, logger=False, enable_checkpointing=False)
assert type(trainer.strategy).__name__ == {!r}
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", NAMES)
@pytest.mark.parametrize("first", ["import {}", "import lightning.pytorch, {}"], ids=["before", "after"])
def test_the_name_is_known_whichever_is_imported_first(package, first, tmp_path):
    code = first.format(package) + USE.format(*NAMES[package])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


@pytest.mark.parametrize("package", NAMES)
def test_the_package_itself_imports_neither_torch_nor_lightning(package, tmp_path):
    code = f"import sys, {package}; assert not {{'torch', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_two_packages_that_wait_are_both_registered(tmp_path):
    code = f"import {', '.join(NAMES)}\nfrom lightning.pytorch.strategies import StrategyRegistry\n"
    code += "assert {'snapshot_parallel', 'snapshot_parallel_fork'} <= set(StrategyRegistry.available_strategies())"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
