"""The command line: one process starts the others, dies, and the rest end with the right answer in the same folder."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CONFIG = """
seed_everything: 3
trainer:
  max_epochs: -1
  accelerator: cpu
  devices: 1
  precision: 64-true
  check_val_every_n_epoch: null
  val_check_interval: 100000
  log_every_n_steps: 10
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  strategy:
    class_path: DynamicAsyncStrategy
    init_args:
      {{shards: 3, local_peers: 3, heartbeat_s: 0.25, timeout_s: 3, eps: {eps}, certify: require, record: log}}
  callbacks: [ConvergenceCertifier]
model:
  class_path: SoftmaxProbe
  init_args: {{num_classes: 10, features: 64, weight_decay: 0.1, learning_rate: 0.9}}
data: Digits
expect:
  val/accuracy: ">= 0.6"
  certificate/holds: "== 1"
"""


@pytest.fixture
def run(tmp_path):
    """Starts ``fulgurite fit``; whatever is left of its group in the end is killed."""
    started = []

    def start(eps):
        (tmp_path / "run.yaml").write_text(CONFIG.format(eps=eps))
        command = [sys.executable, "-m", "fulgurite.recipes.cli", "fit", "--config", "run.yaml"]
        with (tmp_path / "out.txt").open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def members(group):
    """Processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, owner = stat.read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def until(reached, folder, limit_s=150):
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, (folder / "out.txt").read_text()[-4000:]
        time.sleep(0.05)


def evaluations(folder):
    return [path.read_text().count("\n") for path in (folder / "log").glob("peer-*.jsonl")]


def outcome(folder):
    """What the certifier wrote, all of it in one folder."""
    (written,) = folder.glob("runs/run/version_*/convergence/certificate.json")
    assert written.with_name("convergence.png").stat().st_size > 10_000
    return json.loads(written.read_text())


def test_the_first_process_starts_the_others_and_tells_whether_the_bars_are_met(run, tmp_path):
    process = run(1e-3)
    until(lambda: process.poll() is not None, tmp_path)
    said = (tmp_path / "out.txt").read_text()
    assert process.returncode == 0, said
    assert said.count("certificate/holds") == 1
    assert "NOT MET" not in said
    found = outcome(tmp_path)
    assert found["verdict"] == "certified"
    assert found["error"] <= found["bound"] <= 1e-3
    until(lambda: not members(process.pid), tmp_path, 10)


def test_the_first_process_is_killed_and_the_others_finish_in_its_folder(run, tmp_path):
    process = run(1e-7)

    def all_train():
        assert process.poll() is None, (tmp_path / "out.txt").read_text()[-4000:]
        return len(evaluations(tmp_path)) == 3 and min(evaluations(tmp_path)) > 10

    until(all_train, tmp_path)
    assert len(members(process.pid)) == 3
    assert not list(tmp_path.glob("runs/run/version_0/convergence"))
    process.kill()
    process.wait(30)
    until(lambda: not members(process.pid), tmp_path)
    said = (tmp_path / "out.txt").read_text()
    assert "this process logs and writes checkpoints from now on" in said
    assert "NOT MET" not in said
    found = outcome(tmp_path)
    assert found["error"] <= found["bound"] <= 1e-7
    assert len(list(tmp_path.glob("runs/run/version_0/events*"))) == 2
    assert not list(tmp_path.glob("runs/run/version_1"))
