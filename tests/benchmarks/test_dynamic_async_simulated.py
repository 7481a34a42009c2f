"""The benchmark in small."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.mark.slow
def test_it_runs_and_prints_what_it_found(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module("dynamic_async_simulated").main(["--quick"])
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    low, high = found["simulator"]["compiled"]
    assert low["activations"] == pytest.approx(0.3 * high["activations"], rel=0.1)
    assert low["rate"] > 3 * found["simulator"]["python_rate"]
    one_sign, *_ = found["events"]
    assert min(one_sign["ratios"]["straggler"]) > 2
    assert max(one_sign["ratios"]["equal"]) < 1
    assert "| 16, one sign, 0.0 |" in printed
