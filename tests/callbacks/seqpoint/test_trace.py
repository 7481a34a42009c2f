import gzip
import json
import math
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.profiler import ProfilerActivity, profile

from fulgurite.callbacks.seqpoint.integrity import find_faults
from fulgurite.callbacks.seqpoint.trace import ProfilerBusy, TraceWindows

CPU = torch.device("cpu")


class Tagger(nn.Module):
    """Dropout draws random numbers; the frozen Transformer layer takes another path where it has hooks of its own."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.frozen = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(16, 50)

    def forward(self, tokens):
        with torch.no_grad():
            seen = self.frozen(self.embedding(tokens))
        return self.head(self.drop(self.lstm(seen)[0]))


def training(steps, traced=(), windows=None, fails_at=None):
    """Train for some steps, some of them traced; the weights, the last random number and the traces."""
    torch.manual_seed(0)
    net = Tagger()
    optimizer = torch.optim.Adam(net.parameters())
    found = []
    if windows is not None:
        windows = windows(net)
        windows.open()
    for step in range(steps):
        tokens = torch.randint(0, 50, (4, 5 + step))
        if step in traced:
            windows.start(f"epoch 0 batch {step}", shape=(4, 5 + step))
        loss = nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in traced:
            found.append(windows.stop(optimizer_step=True))
    if windows is not None:
        windows.close()
    return net.state_dict(), torch.rand(1), found


def read(trace):
    return json.loads(gzip.decompress(trace.path.read_bytes()))


def no_hooks_left():
    return not (module_hooks._global_forward_pre_hooks or module_hooks._global_forward_hooks)


def test_scattered_windows_hold_one_step_each(tmp_path):
    steps = (1, 2, 5)
    _, _, found = training(7, steps, lambda net: TraceWindows(tmp_path, device=CPU, module=net, rank=3))
    assert len(found) == 3
    for step, trace in zip(steps, found, strict=True):
        chrome = read(trace)
        assert find_faults(chrome, optimizer_step=True) == ()
        names = [e["name"] for e in chrome["traceEvents"] if e.get("cat") == "user_annotation"]
        assert sum(name.startswith("ProfilerStep#") for name in names) == 1
        assert f"epoch 0 batch {step}" in names
        assert "module frozen.self_attn" not in names  # the frozen layer took its fast path
        assert "module lstm" in names
        assert chrome["distributedInfo"]["rank"] == 3
        assert chrome["seqpoint"] == {"label": f"epoch 0 batch {step}", "shape": [4, 5 + step]}
        assert trace.path == tmp_path / f"epoch-0-batch-{step}.rank3.pt.trace.json.gz"
        assert trace.bytes_on_disk == trace.path.stat().st_size
        assert trace.shape == (4, 5 + step)
        assert sum(row.seconds for row in trace.operators) == pytest.approx(trace.seconds, rel=1e-6)
        assert sum(row.seconds for row in trace.modules) == pytest.approx(trace.seconds, rel=1e-6)
        assert {("lstm", "backward"), ("head", "forward")} <= {(row.name, row.phase) for row in trace.modules}
        assert trace.peak_bytes > 4 * (5 + step) * 50 * 4  # the logits alone
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(trace.path.name for trace in found)
    assert no_hooks_left()


def test_tracing_changes_neither_weights_nor_random_numbers(tmp_path):
    plain_weights, plain_number, _ = training(6)
    weights, number, found = training(6, (0, 3, 4), lambda net: TraceWindows(tmp_path, device=CPU, module=net))
    assert all(found)
    assert torch.equal(number, plain_number)
    assert all(torch.equal(weights[name], value) for name, value in plain_weights.items())


def test_memory_is_measured_only_if_asked_for(tmp_path):
    with_memory = training(1, (0,), lambda net: TraceWindows(tmp_path / "a", device=CPU))[2][0]
    without = training(1, (0,), lambda net: TraceWindows(tmp_path / "b", device=CPU, memory=False))[2][0]
    assert with_memory.peak_bytes > 0
    assert math.isnan(without.peak_bytes)
    assert without.bytes_on_disk < with_memory.bytes_on_disk


def test_a_foreign_profiler_is_refused_and_keeps_its_data(tmp_path):
    windows = TraceWindows(tmp_path, device=CPU)
    with profile(activities=[ProfilerActivity.CPU]) as foreign:
        with pytest.raises(ProfilerBusy, match="another torch profiler is recording"):
            windows.open()
        torch.ones(3) + 1
    assert any(event.name == "aten::add" for event in foreign.events())
    windows.open()
    with profile(activities=[ProfilerActivity.CPU]) as foreign:
        with pytest.raises(ProfilerBusy, match="Trainer"):
            windows.start("refused")
        torch.ones(3) + 1
    assert any(event.name == "aten::add" for event in foreign.events())
    windows.start("after it")
    torch.ones(3) + 1
    assert windows.stop() is not None
    windows.close()


def test_a_profiler_that_takes_over_inside_a_window_costs_only_that_window(tmp_path):
    windows = TraceWindows(tmp_path, device=CPU)
    windows.open()
    windows.start("stolen")
    with profile(activities=[ProfilerActivity.CPU]):
        torch.ones(3) + 1
    assert windows.stop() is None
    assert windows.faults == ("another profiler took over the window",)
    windows.start("next")
    torch.ones(3) + 1
    assert windows.stop() is not None
    windows.close()
    assert [path.name for path in tmp_path.iterdir()] == ["next.rank0.pt.trace.json.gz"]


def test_a_trace_that_is_not_whole_is_not_written(tmp_path):
    windows = TraceWindows(tmp_path / "traces", device=CPU)
    windows.open()
    windows.start("no optimizer")
    torch.ones(3) + 1
    assert windows.stop(optimizer_step=True) is None
    assert windows.faults == ("it holds no optimizer step, expected an optimizer step",)
    assert not (tmp_path / "traces").exists()
    windows.start("empty")
    assert windows.stop() is None
    assert windows.faults == ("no operator was recorded inside the step",)
    windows.start("good")
    torch.ones(3) + 1
    assert windows.stop(optimizer_step=False) is not None
    assert windows.faults == ()
    windows.close()


def test_a_folder_that_cannot_be_written_is_reported_whole_and_windows_go_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    windows = TraceWindows(tmp_path / "file" / "traces", device=CPU)
    windows.open()
    for _ in range(2):
        windows.start("step")
        torch.ones(3) + 1
        with pytest.raises(OSError, match="file"):
            windows.stop()
    windows.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert no_hooks_left()


def test_windows_are_opened_and_closed_in_order(tmp_path):
    windows = TraceWindows(tmp_path, device=CPU)
    windows.close()
    with pytest.raises(RuntimeError, match="call open"):
        windows.start("too early")
    windows.open()
    with pytest.raises(RuntimeError, match="call start"):
        windows.stop()
    windows.start("one")
    with pytest.raises(RuntimeError, match="'one' is still open"):
        windows.start("two")
    windows.close()
    windows.close()
    assert list(tmp_path.iterdir()) == []
    assert not torch._C._autograd._profiler_enabled()
    windows.open()  # and again
    windows.start("again")
    torch.ones(3) + 1
    assert windows.stop() is not None
    windows.close()


def test_a_step_that_raises_leaves_nothing_behind(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    net = nn.Sequential(nn.Linear(2, 2), Broken())
    windows = TraceWindows(tmp_path, device=CPU, module=net)
    windows.open()
    windows.start("broken")
    with pytest.raises(ZeroDivisionError):
        net(torch.ones(1, 2))
    windows.close()
    assert no_hooks_left()
    assert not torch._C._autograd._profiler_enabled()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ['say "hi" \\ там', "../../etc/passwd", "\n", "a/b:c"])
def test_any_label_makes_a_safe_name(tmp_path, label):
    windows = TraceWindows(tmp_path / "traces", device=CPU)
    windows.open()
    windows.start(label)
    torch.ones(3) + 1
    trace = windows.stop()
    windows.close()
    assert trace.label == label
    assert trace.path.parent == tmp_path / "traces"
    chrome = read(trace)
    assert chrome["seqpoint"]["label"]
    assert not any(event["name"] == "unknown" for event in chrome["traceEvents"])


def test_a_file_that_kineto_breaks_is_a_fault(tmp_path):
    windows = TraceWindows(tmp_path, device=CPU)
    windows.open()
    windows.start("broken")
    torch.ones(3) + 1
    windows._profile.add_metadata_json("by_somebody_else", "{not json")
    assert windows.stop() is None
    assert windows.faults[0].startswith("it is not valid JSON")
    windows.close()
    assert list(tmp_path.iterdir()) == []


def test_modules_called_from_another_thread_are_left_alone(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2))
    windows = TraceWindows(tmp_path, device=CPU, module=net)
    windows.open()
    windows.start("step")
    other = threading.Thread(target=net, args=(torch.ones(1, 2),))
    other.start()
    other.join()
    torch.ones(3) + 1
    trace = windows.stop()
    windows.close()
    assert "module 0" not in {event["name"] for event in read(trace)["traceEvents"]}


def test_compiled_code_is_neither_compiled_again_nor_warned_about(tmp_path):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    by_method = nn.Sequential(nn.Linear(2, 2))
    by_method.compile(backend=backend)
    nets = [nn.ModuleDict({"a": torch.compile(inner, backend=backend)}), nn.ModuleDict({"a": by_method})]
    function = torch.compile(lambda x: (inner(x) * 2).sum(), backend=backend)
    try:
        for net in nets:
            net["a"](torch.ones(3, 2))
            function(torch.ones(3, 2))
            before = len(compiled)
            windows = TraceWindows(tmp_path, device=CPU, module=net)
            windows.open()
            windows.start("step")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                net["a"](torch.ones(3, 2))
                function(torch.ones(3, 2))
            trace = windows.stop()
            windows.close()
            assert trace is not None
            assert len(compiled) == before
        # Code that is compiled while a window is open must not carry its labels on.
        windows = TraceWindows(tmp_path, device=CPU, module=nn.ModuleDict({"inner": inner}))
        windows.open()
        windows.start("compiles")
        torch.compile(lambda x: (inner(x) * 3).sum(), backend=backend)(torch.ones(3, 2))
        assert windows.stop() is not None
        windows.close()
        assert not any("record_function" in str(node) for graph in compiled for node in graph.graph.nodes)
    finally:
        torch._dynamo.reset()


@pytest.mark.slow
def test_windows_write_nothing_to_the_terminal(tmp_path):
    script = """
import sys, torch
from pathlib import Path
from fulgurite.callbacks.seqpoint.trace import TraceWindows
windows = TraceWindows(Path(sys.argv[1]), device=torch.device("cpu"))
windows.open()
for step in range(3):
    windows.start(f"step {step}")
    torch.ones(3) + 1
    assert windows.stop()
windows.close()
"""
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("level", [None, "3"])
def test_the_users_log_level_is_left_alone(tmp_path, monkeypatch, level):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("KINETO_LOG_LEVEL", level)
    windows = TraceWindows(tmp_path, device=CPU)
    windows.open()
    windows.close()
    assert os.environ.get("KINETO_LOG_LEVEL") == level


@pytest.mark.gpu
def test_on_a_gpu_each_window_holds_its_own_kernels(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    net = nn.Linear(256, 256, device=device)
    windows = TraceWindows(tmp_path, device=device, module=nn.ModuleDict({"net": net}))
    windows.open()
    batch = torch.ones(64, 256, device=device)
    for step in range(6):
        net(batch).sum().backward()  # queued, and not to leak into the window
        windows.start(f"step {step}")
        net(batch).sum().backward()
        trace = windows.stop()
        assert trace is not None, windows.faults
        assert trace.kernels
        assert trace.peak_bytes >= batch.nbytes
        assert {("net", "forward"), ("net", "backward")} <= {(row.name, row.phase) for row in trace.modules}
    windows.close()
