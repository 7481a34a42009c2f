"""A plugin in a package of somebody else's: built, installed beside us, and found through its entry point."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "acme-tools"
version = "1.0"
[project.entry-points."fulgurite.plugins"]
acme_tools = "acme_tools.plugin:PLUGIN"
[tool.setuptools.packages.find]
include = ["acme_tools*"]
[tool.setuptools.package-data]
"*" = ["*.yaml"]
""",
    "acme_tools/__init__.py": "",
    "acme_tools/plugin.py": """
from fulgurite.plugins.registry import Plugin
PLUGIN = Plugin(
    name="acme_tools", summary="a callback that counts", components={"CountSteps": "acme_tools.count:CountSteps"},
    recipes="acme_tools.recipes", modules=("acme_tools.count",), commands="acme_tools.commands:main",
)
""",
    "acme_tools/count.py": """
import lightning.pytorch as pl
import torch
class CountSteps(pl.Callback):
    def __init__(self, factor: int = 1):
        self.count, self.factor = 0, factor
    def on_train_batch_end(self, *args):
        self.count += self.factor
    def on_train_end(self, trainer, module):
        print(f"counted {self.count}")
class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2)
""",
    "acme_tools/commands.py": "def main(args):\n    print('hello from acme', *args)\n    return 3\n",
    "acme_tools/recipes/__init__.py": "",
    "acme_tools/recipes/count.yaml": """# Counts the steps of a small run.
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  callbacks: [{class_path: CountSteps, init_args: {factor: 10}}]
model: {class_path: acme_tools.count.Line}
expect: {loss: ">= 0"}
""",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that sees the package, built and installed like anybody's."""
    source, site = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def fulgurite(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fulgurite.recipes.cli", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_it_is_listed(installed, tmp_path):
    plugins = fulgurite(installed, tmp_path, "plugins").stdout
    assert "acme_tools: a callback that counts" in plugins
    listed = fulgurite(installed, tmp_path, "list").stdout
    assert re.search(r"^acme_tools/count +Counts the steps of a small run$", listed, re.MULTILINE)
    assert "acme-tools" in fulgurite(installed, tmp_path, "--help").stdout


def test_its_command_runs_with_its_words_and_its_exit_code(installed, tmp_path):
    done = fulgurite(installed, tmp_path, "acme-tools", "one", "two")
    assert done.stdout == "hello from acme one two\n"
    assert done.returncode == 3


@pytest.mark.slow
def test_its_recipe_is_checked_and_run_twice_with_its_callback(installed, tmp_path):
    assert fulgurite(installed, tmp_path, "check", "acme_tools/count").stdout.startswith("ok")
    for _ in range(2):  # the second run meets the config.yaml of the first
        done = fulgurite(installed, tmp_path, "run", "acme_tools/count", "--trainer.default_root_dir=here")
        assert done.returncode == 0, done.stderr
        assert "counted 30" in done.stdout
        assert "met" in done.stdout


@pytest.mark.slow
def test_a_bar_that_is_not_met_is_exit_code_1(installed, tmp_path):
    done = fulgurite(installed, tmp_path, "run", "acme_tools/count", "--expect.loss=< -1")
    assert done.returncode == 1
    assert "NOT MET" in done.stdout


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_overwrites_the_old_config(installed, tmp_path):
    options = {"save_dir": "logs", "name": "", "version": ""}
    logger = "--trainer.logger=" + json.dumps({"class_path": "CSVLogger", "init_args": options})
    for _ in range(2):
        done = fulgurite(installed, tmp_path, "run", "acme_tools/count", logger)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("config.yaml"))) == 1
