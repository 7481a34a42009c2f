import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_the_benchmark_runs_from_training_to_its_tables(tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("mlxtend")
    page = ROOT / "docs" / "benchmarks.md"
    before = page.read_text(encoding="utf-8")
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "representative_interpretation.py"),
        "--quick",
        "--json",
        found,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(found.read_text())
    assert len(results["seeds"]) == 2
    for seed in results["seeds"]:
        assert all(fact["exact"] == 1 for fact in seed["last"]["facts"])  # behind pooling, piecewise linear
        methods = seed["last"]["maps"]["semantic"]
        assert (
            {"RI, channel", "RI, element-wise", "random pixels"} < set(methods) == set(seed["auto"]["maps"]["semantic"])
        )
    linear = results["linear_head"]
    assert linear["affine"]
    assert all(row["distinct"] == row["rivals"] and row["deviation"] < 1e-9 for row in linear["inputs"])
    for title in ("Against what was aimed at", "mAD ↓ in per cent, last cut", "quoted, not reproduced"):
        assert title in done.stdout
    assert page.read_text(encoding="utf-8") == before
