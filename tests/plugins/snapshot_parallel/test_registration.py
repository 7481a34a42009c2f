import subprocess
import sys

import pytest

USE = """
from lightning.pytorch import Trainer
trainer = Trainer(accelerator="cpu", devices=1, strategy="snapshot_parallel", logger=False, enable_checkpointing=False)
assert type(trainer.strategy).__name__ == "SnapshotParallelStrategy"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "import fulgurite.plugins.snapshot_parallel",
        "import lightning.pytorch, fulgurite.plugins.snapshot_parallel",
    ],
    ids=["before", "after"],
)
def test_the_name_is_known_whichever_is_imported_first(order, tmp_path):
    subprocess.run([sys.executable, "-c", order + USE], check=True, cwd=tmp_path, capture_output=True)


def test_the_package_itself_imports_neither_torch_nor_lightning(tmp_path):
    code = "import sys, fulgurite.plugins.snapshot_parallel; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
