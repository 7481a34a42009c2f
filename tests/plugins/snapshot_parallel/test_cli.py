"""Ranks that are started for real: by Lightning's launchers through ``fulgurite``, and by torchrun."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MODULE = f"""
import json, os, signal, sys
sys.path.insert(0, {str(HERE)!r})
import toy
from lightning.pytorch import LightningDataModule


class Data(LightningDataModule):
    def train_dataloader(self):
        return toy.loader(toy.timeline(0), toy.timeline(1))

    def val_dataloader(self):
        return toy.loader(toy.timeline(9))


class Module(toy.ToyModule):
    def __init__(self, coupling: str = "recurrent", victim: int = -1):
        super().__init__(coupling)
        self.victim = victim

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1 and self.global_rank == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)

    def on_train_end(self):
        with open(f"losses-{{self.global_rank}}.json", "w") as file:
            json.dump(self.losses, file)
"""

SCRIPT = """
import sys
import fulgurite.plugins.snapshot_parallel
from lightning.pytorch import Trainer
from my_graphs import Data, Module

if __name__ == "__main__":
    strategy, devices, nodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    trainer = Trainer(
        accelerator="cpu", devices=devices, num_nodes=nodes, strategy=strategy, max_epochs=3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Module(), Data())
"""

RECIPE = """
trainer:
  accelerator: cpu
  devices: 2
  strategy: {strategy}
  max_epochs: 3
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
model: {{class_path: my_graphs.Module, init_args: {model}}}
data: {{class_path: my_graphs.Data}}
"""
WRITTEN_OUT = "{class_path: SnapshotParallelStrategy, init_args: {blocks: 2, collectives: resend, timeout: 60}}"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "my_graphs.py").write_text(MODULE)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def start(project, *command):
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")},
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(project, *command, code=0):
    process = start(project, *command)
    output, _ = process.communicate(timeout=110)
    assert (process.returncode == 0) == (code == 0), output
    return output


def fulgurite(project, *words, code=0):
    return run(project, "fulgurite.recipes.cli", *words, "--allow-import", "my_graphs", code=code)


def write(project, name="recipe.yaml", strategy="snapshot_parallel", model="{}"):
    (project / name).write_text(RECIPE.format(strategy=strategy, model=model))
    return name


def assert_trained(project, ranks=2):
    """Every rank logged the losses that one process has."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("toy_for_cli", HERE / "toy.py")
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    from lightning.pytorch import Trainer

    module = toy.ToyModule()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, toy.loader(toy.timeline(0), toy.timeline(1)), toy.loader(toy.timeline(9)))
    for rank in range(ranks):
        losses = json.loads((project / f"losses-{rank}.json").read_text())
        assert losses == pytest.approx(module.losses, abs=1e-12)


def test_a_recipe_with_the_short_name_trains_on_two_processes(project):
    fulgurite(project, "fit", "--config", write(project))
    assert_trained(project)


def test_check_takes_the_class_with_its_options_and_says_in_a_line_what_cannot_be_cut(project):
    recipes = [write(project, "good.yaml", WRITTEN_OUT), write(project, "bad.yaml", model="{coupling: graph}")]
    output = fulgurite(project, "check", *recipes, code=1)
    good, bad = [line for line in output.splitlines() if line.startswith(("ok", "fault"))]
    assert good.split()[:2] == ["ok", "good.yaml"]
    assert bad.startswith("fault    bad.yaml")
    assert "got ToyNetwork, whose state runs through the graph" in bad
    assert "snapshot_ranks=1" in bad


def test_a_rank_that_is_killed_is_named_in_the_error_of_the_other(project):
    output = fulgurite(project, "fit", "--config", write(project, model="{victim: 1}"), code=1)
    errors = [line for line in output.splitlines() if line.startswith("fulgurite:")]
    assert len(errors) == 1, output
    assert "rank 1 died" in errors[0]
    assert "rank 0 saw" in errors[0]


def test_ranks_can_be_forked(project):
    run(project, "train", "snapshot_parallel_fork", "2", "1")
    assert_trained(project)


def test_torchrun_joins_two_machines(project):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    processes = [
        start(
            project, "torch.distributed.run", *options, f"--node-rank={node}", "train.py", "snapshot_parallel", "1", "2"
        )
        for node in range(2)
    ]
    outputs = [process.communicate(timeout=110)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_trained(project)
