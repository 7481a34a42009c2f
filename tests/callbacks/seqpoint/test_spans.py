import json
import math
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint

from fulgurite.callbacks.seqpoint.spans import (
    BETWEEN,
    IDLE,
    MODULE,
    OPTIMIZER,
    OUTSIDE,
    peak_allocated,
    take_apart,
)

BACKWARD = "autograd::engine::evaluate_function: "


def span(name, cat, ts, dur, tid=1, **args):
    return {"ph": "X", "name": name, "cat": cat, "pid": 7, "tid": tid, "ts": float(ts), "dur": float(dur), "args": args}


def op(name, ts, dur, tid=1, **args):
    return span(name, "cpu_op", ts, dur, tid, **args)


def note(name, ts, dur):
    return span(name, "user_annotation", ts, dur)


def microseconds(rows):
    return {(row.name, row.phase): round(row.seconds * 1e6, 6) for row in rows}


def calls(rows):
    return {(row.name, row.phase): row.calls for row in rows}


@st.composite
def nested(draw, name="", low=0, high=60, depth=0):
    """Spans that lie within each other or apart, as a call stack leaves them."""
    spans = []
    cuts = sorted(draw(st.lists(st.integers(low, high), max_size=6, unique=True)))
    for start, stop in zip(cuts[::2], cuts[1::2], strict=False):
        kind = draw(st.sampled_from(["op", "note"]))
        label = draw(st.sampled_from("abc"))
        spans.append(op(label, start, stop - start) if kind == "op" else note(label, start, stop - start))
        if depth < 3 and stop - start > 3:
            spans += draw(nested(low=start + 1, high=stop - 1, depth=depth + 1))
    return spans


@settings(deadline=None, max_examples=200)
@given(spans=nested(), seed=st.randoms(use_true_random=False))
def test_self_times_match_a_naive_count_of_microseconds(spans, seed):
    seed.shuffle(spans)
    times = take_apart({"traceEvents": [*spans, note("ProfilerStep#3", 0, 60)]})
    naive = Counter()
    for moment in range(60):
        inside = [s for s in spans if s["cat"] == "cpu_op" and s["ts"] <= moment < s["ts"] + s["dur"]]
        naive[min(inside, key=lambda s: s["dur"])["name"] if inside else BETWEEN] += 1
    assert {name: s for (name, _), s in microseconds(times.operators).items()} == pytest.approx(dict(naive))
    assert sum(row.seconds for row in times.operators) == pytest.approx(60e-6, abs=1e-15)
    assert sum(row.seconds for row in times.modules) == pytest.approx(60e-6, abs=1e-15)
    counted = {name: number for (name, _), number in calls(times.operators).items() if name != BETWEEN}
    assert counted == Counter(s["name"] for s in spans if s["cat"] == "cpu_op")


def training_step():
    """A step of two modules, the loss outside of them, and an optimizer that stands on its own."""
    return [
        note("ProfilerStep#1", 0, 100),
        note(MODULE + "net", 5, 30),
        op("aten::view", 6, 2, **{"Sequence number": 10}),  # consumes no number, so the next operator shares it
        note(MODULE + "net.head", 10, 15),
        op("aten::linear", 12, 10, **{"Sequence number": 10}),
        op("aten::addmm", 14, 6, **{"Sequence number": 10}),
        op("aten::relu", 28, 4, **{"Sequence number": 11}),
        op("aten::mean", 40, 5, **{"Sequence number": 12}),
        op(BACKWARD + "MeanBackward0", 50, 4, **{"Sequence number": 12}),
        op(BACKWARD + "ReluBackward0", 55, 5, **{"Sequence number": 11}),
        op(BACKWARD + "AddmmBackward0", 60, 10, **{"Sequence number": 10}),
        op("aten::mm", 62, 6),
        op(BACKWARD + "AccumulateGrad", 71, 2),
        note("Optimizer.step#SGD.step", 80, 15),
        op("aten::add_", 82, 10),
    ]


def test_backward_time_goes_to_the_module_that_made_the_node():
    times = take_apart({"traceEvents": training_step()})
    assert microseconds(times.modules) == {
        ("net", "forward"): 15,  # 5 to 10 and 25 to 35
        ("net.head", "forward"): 15,
        ("net", "backward"): 5,
        ("net.head", "backward"): 10,
        (OUTSIDE, "backward"): 6,  # the loss and the accumulation of gradients
        (OPTIMIZER, ""): 15,
        (OUTSIDE, ""): 34,
    }
    assert calls(times.modules)[("net.head", "backward")] == 1
    assert calls(times.modules)[("net.head", "forward")] == 1
    assert microseconds(times.operators)[("aten::mm", "")] == 6


def test_an_optimizer_that_runs_the_whole_step_as_a_closure_is_not_charged_for_it():
    events = [e for e in training_step() if not e["name"].startswith("Optimizer")]
    times = take_apart({"traceEvents": [*events, note("Optimizer.step#SGD.step", 2, 96)]})
    spent = microseconds(times.modules)
    assert spent[(OPTIMIZER, "")] == 25  # from the end of the backward pass, 73, to 98
    assert spent[("net.head", "forward")] == 15
    assert spent[(OUTSIDE, "")] == 100 - 25 - 15 - 15 - 5 - 10 - 6


def test_threads_beside_the_step_do_not_lengthen_it():
    loader = [op("aten::stack", 5, 70, tid=2), note("ProfilerStep#1", 0, 100), op("aten::mm", 10, 20)]
    assert microseconds(take_apart({"traceEvents": loader}).operators) == {("aten::mm", ""): 20, (BETWEEN, ""): 80}


def test_neighbours_that_overlap_by_a_nanosecond_stay_neighbours():
    events = [note("ProfilerStep#1", 0, 30), op("a", 5, 5.001), op("b", 10, 10)]
    found = microseconds(take_apart({"traceEvents": events}).operators)
    assert found[("b", "")] == pytest.approx(10, abs=0.01)


def launch(ts, number, tid=1):
    return span("cudaLaunchKernel", "cuda_runtime", ts, 2, tid, correlation=number)


def kernel(ts, dur, number, name="gemm"):
    return span(name, "kernel", ts, dur, tid="stream 7", correlation=number)


def test_device_time_goes_to_what_launched_it():
    events = [
        note("ProfilerStep#1", 0, 100),
        note(MODULE + "net", 5, 30),
        op("aten::addmm", 10, 10, **{"Sequence number": 3}),
        launch(12, 1),
        launch(15, 2),
        launch(40, 3),  # by no operator
        op(BACKWARD + "AddmmBackward0", 50, 10, tid=2, **{"Sequence number": 3}),
        op("aten::mm", 51, 8, tid=2),
        launch(53, 4, tid=2),
        note("Optimizer.step#SGD.step", 70, 10),
        op("aten::add_", 71, 8),
        launch(73, 5),
        kernel(20, 10, 1),
        kernel(25, 10, 2, "bias"),  # on a second stream, half of it beside the first
        kernel(45, 5, 3, "copy"),
        kernel(60, 20, 4),
        kernel(85, 5, 5, "axpy"),
    ]
    times = take_apart({"traceEvents": events})
    idle = 100 - (15 + 5 + 20 + 5)
    assert microseconds(times.operators) == {
        ("aten::addmm", ""): 20,
        ("aten::mm", ""): 20,
        ("aten::add_", ""): 5,
        (BETWEEN, ""): 5,
        (IDLE, ""): idle,
    }
    assert microseconds(times.modules) == {
        ("net", "forward"): 20,
        ("net", "backward"): 20,
        (OPTIMIZER, ""): 5,  # by the time of its launch: the kernel ran after the optimizer had returned
        (OUTSIDE, ""): 5,
        (IDLE, ""): idle,
    }
    assert microseconds(times.kernels) == {
        ("gemm", ""): 30,
        ("bias", ""): 10,
        ("copy", ""): 5,
        ("axpy", ""): 5,
        (IDLE, ""): idle,
    }
    assert calls(times.operators)[("aten::addmm", "")] == 1
    assert times.seconds == pytest.approx(100e-6)


def test_a_graph_launch_keeps_all_its_kernels():
    events = [
        note("ProfilerStep#1", 0, 50),
        op("graph", 1, 10),
        span("cudaGraphLaunch", "cuda_runtime", 2, 3, correlation=1),
    ]
    events += [kernel(10 + 10 * n, 10, 1) for n in range(3)]
    assert microseconds(take_apart({"traceEvents": events}).operators) == {("graph", ""): 30, (IDLE, ""): 20}


class Tied(nn.Module):
    """One layer used twice, and one that is run again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(32, 32)
        self.again = nn.Sequential(nn.Linear(32, 32), nn.Tanh())

    def forward(self, x):
        x = self.shared(self.shared(x))
        return checkpoint(self.again, x, use_reentrant=False)


def traced(step, folder, module=None, **options):
    """The Chrome trace of one step under a plain profiler, with the modules' labels."""
    handles = []
    if module is not None:
        stack = []

        def enter(name):
            def hook(module, args):
                stack.append(record_function(MODULE + name))
                stack[-1].__enter__()

            return hook

        for name, child in module.named_modules():
            if name:
                handles.append(child.register_forward_pre_hook(enter(name)))
                handles.append(child.register_forward_hook(lambda *_: stack.pop().__exit__(None, None, None)))
    with profile(activities=[ProfilerActivity.CPU], **options) as profiler, record_function("ProfilerStep#0"):
        step()
    for handle in handles:
        handle.remove()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    return profiler, json.loads((folder / "trace.json").read_text())


def test_operators_agree_with_torchs_own_table(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    optimizer = torch.optim.Adam(net.parameters())

    def step():
        net(torch.ones(64, 64)).square().mean().backward()
        optimizer.step()

    step()
    profiler, trace = traced(step, tmp_path)
    ours = take_apart(trace)
    theirs = {row.key: row for row in profiler.key_averages() if row.key.startswith("aten::")}
    mine = {row.name: row for row in ours.operators if row.name.startswith("aten::")}
    assert mine.keys() == theirs.keys()
    for name, row in mine.items():
        assert row.calls >= theirs[name].count  # torch merges a call with one of the same name directly inside it
        assert row.seconds * 1e6 == pytest.approx(theirs[name].self_cpu_time_total, rel=0.01, abs=0.1 * row.calls)


def test_a_real_backward_pass_finds_its_modules_used_twice_or_run_again(tmp_path):
    torch.manual_seed(0)
    net = Tied()
    _, trace = traced(lambda: net(torch.ones(4, 32, requires_grad=True)).sum().backward(), tmp_path, net)
    times = take_apart(trace)
    nodes = defaultdict(int)
    for row in times.modules:
        if row.phase == "backward":
            nodes[row.name] += row.calls
    assert nodes["shared"] >= 4  # two AddmmBackward0 and two TBackward0
    assert nodes["again.0"] >= 2
    assert nodes["again.1"] >= 1
    assert calls(times.modules)[("shared", "forward")] == 2
    assert sum(row.seconds for row in times.modules) == pytest.approx(times.seconds, rel=1e-6)


def test_peak_is_the_highest_level_of_known_allocations(tmp_path):
    def step():
        first = torch.empty(1_000_000, dtype=torch.uint8)
        second = torch.empty(2_000_000, dtype=torch.uint8)
        del first
        third = torch.empty(500_000, dtype=torch.uint8)
        del second, third

    _, trace = traced(step, tmp_path, profile_memory=True)
    assert peak_allocated(trace) == pytest.approx(3_000_000, rel=0.01)
    assert math.isnan(peak_allocated(traced(step, tmp_path)[1]))
