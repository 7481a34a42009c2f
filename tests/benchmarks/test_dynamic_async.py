"""The benchmark's driver and its part about training, in small."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "benchmarks.md"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """``script(name)``: a module of the benchmarks, where files are written into a folder of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # of the process that tests
    return importlib.import_module


FOUND = {
    "date": "today",
    "machine": "here",
    "simulated": {"tables": "| a table |"},
    "processes": {
        "speed": [
            {"case": "equal speeds", "barrier_s": [6, 8], "free_s": [9, 11], "ratios": [2 / 3, 8 / 11], "goal": 0.6}
            | {"advice": "use the synchronous solver"},
            {"case": "slow", "barrier_s": [40], "free_s": [20], "ratios": [2], "goal": 1.5, "advice": None},
        ],
        "recovery_s": [0.2, 0.4],
        "timeout_s": 1.0,
    },
    "training": {
        "seconds": {"one slow": {"dynamic_async": [6.0, 5.0], "ddp": [12.0, 11.0]}},
        "recovery_s": [0.5],
        "failures": ["exit code 1: RuntimeError: Connection closed by peer"],
        "timeout_s": 2.0,
        "limits": {name: {"loss": 2.0, "accuracy": 0.8} for name in ("ddp", "dynamic_async")},
        "apart": 0.01,
        "setup": {"sleep_s": 0.02, "decay": 0.05, "lam": 0.1, "rates": {"ddp": 1.8, "dynamic_async": 1.5}},
    },
}


def test_the_page_gives_medians_spreads_aims_and_what_happens_to_the_competitor(script):
    text = script("dynamic_async_page").report(FOUND)
    assert "| equal speeds | 7.00 (6.00–8.00) | 10.00 (9.00–11.00) | 0.70 (0.67–0.73) | ≥ 0.6 |" in text
    assert "use the synchronous solver" in text
    assert "no barrier pays here" in text
    assert "0.30 (0.20–0.40) s (aim ≤ 1 s)" in text
    assert "| one slow | 11.50 (11.00–12.00) | 5.50 (5.00–6.00) | 2.10 (2.00–2.20) |" in text
    assert "| DDP | ends, exit code 1: RuntimeError: Connection closed by peer |" in text
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### Simulated",
        "### Real processes",
        "### Training, against DDP over gloo",
    ]


def test_a_part_that_was_not_measured_has_no_table(script):
    text = script("dynamic_async_page").report({name: FOUND[name] for name in ("date", "machine", "simulated")})
    assert "| a table |" in text
    assert "SIGKILL" not in text


def test_parts_are_measured_by_name_and_join_those_of_the_file(script, monkeypatch, capsys):
    driver = script("dynamic_async")
    Path("found.json").write_text(json.dumps({"training": FOUND["training"]}))
    monkeypatch.setattr(driver, "measure_simulated", lambda options: {"tables": f"quick {options.quick}"})
    before = PAGE.read_text(encoding="utf-8")
    driver.main(["--quick", "--only", "simulated", "--json", "found.json"])
    printed = capsys.readouterr().out
    assert "quick True" in printed
    assert "Connection closed" in printed
    assert set(json.loads(Path("found.json").read_text())) == {"training", "simulated", "date", "machine"}
    assert PAGE.read_text(encoding="utf-8") == before  # small sizes write no page


def test_it_has_arrived_when_it_is_near_for_good(script):
    settled = script("dynamic_async_training").settled
    assert settled([(1.0, 0.5), (2.0, 1e-4), (3.0, 0.5), (4.0, 1e-4), (5.0, 0.0)]) == 4.0
    assert settled([(1.0, 1e-4), (2.0, 0.5)]) is None
    assert settled([]) is None


def test_the_model_is_the_mean_of_what_each_shard_published_last(script, tmp_path):
    training = script("dynamic_async_training")
    size = 10 * training.FEATURES + 10
    features, labels = np.eye(10, training.FEATURES + 1), np.arange(10)
    goal = np.zeros(size)
    loss, accuracy = training.validate(features, labels, goal)
    assert (loss, accuracy) == (pytest.approx(np.log(10)), 0.1)
    setup = training.Setup(0.1, 0.1, 0.0, features, labels, {"dynamic_async": (goal, loss, accuracy)})
    watched = training.Watched(setup, "dynamic_async", tmp_path, None)
    push = np.zeros(size)
    push[0] = 5.0

    def write(number, began, *rows):
        parts = [np.array([began]), *(np.concatenate([[moment, shard], value]) for moment, shard, value in rows)]
        (tmp_path / f"{number}-{100 + number}.bin").write_bytes(np.concatenate(parts).tobytes())

    write(0, 1.5, (2.0, 0, push), (4.0, 0, goal), (7.0, 1, goal))
    write(1, 1.0, (3.0, 1, -push), (5.0, 1, goal))
    write(2, 1.2, (6.5, 2, goal), (6.6, 3, goal))
    assert watched.pids() == {0: 100, 1: 101, 2: 102}
    assert watched.began() == 1.0
    gaps = dict(watched.gaps())
    assert gaps[2.0] > 0.01
    assert gaps[3.0] == pytest.approx(0.0, abs=1e-12)  # the two cancel out
    assert gaps[4.0] > 0.01
    assert gaps[5.0] == 0.0
    # After process 1 is dead nothing counts before somebody else has its shard, and said so since.
    assert [moment for moment, _ in watched.gaps(without=1, since=3.5)] == [7.0]
    assert list(watched.gaps(without=1, since=6.8)) == []


@pytest.mark.slow
@pytest.mark.distributed
def test_training_is_measured_and_one_is_killed(script):
    training = script("dynamic_async_training")
    found = training.measure(True, 1)
    (seconds,) = found["seconds"].values()
    assert all(0 < value < training.LIMIT_S for values in seconds.values() for value in values)
    assert found["recovery_s"][0] > -training.TIMEOUT_S
    (failure,) = found["failures"]
    assert failure.startswith(("exit code 1: RuntimeError", "exit code 1: torch"))
    assert all(limit["accuracy"] > 0.7 for limit in found["limits"].values())
    assert found["apart"] < 0.1


@pytest.mark.slow
@pytest.mark.distributed
def test_processes_with_a_barrier_and_without_get_there(script, tmp_path):
    processes = script("dynamic_async_processes")
    work = replace(processes.prepare(tmp_path, 400, 0.5), cost_s=0.002)
    for barrier in (True, False):
        seconds, evaluations, _ = processes.time_to_answer(work, slow=1.0, barrier=barrier)
        assert seconds > 0
        assert evaluations >= 4 * 20  # 0.5^20 is 1e-6


def test_slow_is_one_process_that_sleeps_longer(script, monkeypatch, tmp_path):
    trainee = script("dynamic_async_trainee")
    made = []

    class Enough(Exception):
        pass

    def stop(sleep_s, **options):
        made.append((sleep_s, options))
        raise Enough

    monkeypatch.setattr(trainee, "SleepyProbe", stop)
    options = {"strategy": "ddp", "folder": tmp_path, "decay": 0.1, "rate": 1.5, "lam": 0.1, "sleep": 0.25}
    options |= {"slow": 8, "timeout": 2}
    monkeypatch.setattr(sys, "argv", ["x", *(f"--{key}={value}" for key, value in options.items())])
    for rank in ("0", "3"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(Enough):
            trainee.main()
    assert [sleep_s for sleep_s, _ in made] == [0.25, 2.0]
    assert made[0][1] == {"weight_decay": 0.1, "learning_rate": 1.5}
