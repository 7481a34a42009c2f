import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.integrity import find_faults


def span(name, cat, ts, dur, tid=1, **args):
    return {"ph": "X", "name": name, "cat": cat, "pid": 7, "tid": tid, "ts": ts, "dur": dur, "args": args}


def cuda_trace():
    """One step on a GPU: three plain launches, a copy and a graph launch that starts three kernels."""
    events = [
        {"ph": "i", "name": "Iteration Start: PyTorch Profiler", "ts": 0.0},
        {"ph": "i", "name": "Record Window End", "ts": 1000.0},
        span("ProfilerStep#1", "user_annotation", 10.0, 900.0),
        span("Optimizer.step#Adam.step", "user_annotation", 500.0, 100.0),
        span("aten::mm", "cpu_op", 20.0, 80.0),
    ]
    for number in (1, 2, 3):
        events.append(span("cudaLaunchKernel", "cuda_runtime", 30.0 * number, 5.0, correlation=number))
        events.append(span("gemm", "kernel", 30.0 * number + 7.0, 20.0, tid=99, correlation=number))
    events.append(span("cudaMemcpyAsync", "cuda_runtime", 150.0, 5.0, correlation=4))
    events.append(span("Memcpy HtoD", "gpu_memcpy", 160.0, 5.0, tid=99, correlation=4))
    events.append(span("cudaGraphLaunch", "cuda_runtime", 200.0, 5.0, correlation=5))
    events += [span("node", "kernel", 210.0 + 10 * n, 5.0, tid=99, correlation=5) for n in range(3)]
    events.append(span("cudaDeviceSynchronize", "cuda_runtime", 850.0, 20.0, correlation=6))
    return {"traceEvents": events}


def records(trace):
    return [event for event in trace["traceEvents"] if event.get("cat") in ("kernel", "gpu_memcpy")]


def faults(trace):
    return find_faults(trace, on_device=True, optimizer_step=True)


def test_a_whole_cuda_trace_passes():
    assert faults(cuda_trace()) == ()


def test_one_record_is_enough_for_a_graph_launch():
    trace = cuda_trace()
    trace["traceEvents"] = [event for event in trace["traceEvents"] if event.get("ts") not in (220.0, 230.0)]
    assert faults(trace) == ()


@settings(deadline=None)
@given(lost=st.sets(st.sampled_from([1, 2, 3, 5]), min_size=1))
def test_every_lost_launch_is_counted(lost):
    trace = cuda_trace()
    trace["traceEvents"] = [
        event
        for event in trace["traceEvents"]
        if event.get("cat") != "kernel" or event["args"]["correlation"] not in lost
    ]
    expected = f"{len(lost)} of 4 kernel launches have no record on the device"
    assert expected in faults(trace)
    assert ("no kernel was recorded on the device" in faults(trace)) == (len(lost) == 4)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ts": 25.0}, "1 of 7 device records start before their launch"),
        ({"ts": 995.0}, "1 of 7 device records lie outside the window"),
        ({"args": {"correlation": 77}}, "1 of 7 device records were launched outside the window"),
        ({"args": {}}, "1 of 7 device records were launched outside the window"),
        ({"dur": -1.0}, "an event has no start, or a negative duration"),
        ({"ts": None}, "an event has no start, or a negative duration"),
    ],
)
def test_a_corrupt_device_record_is_found(change, fault):
    trace = cuda_trace()
    records(trace)[0].update(change)
    assert fault in faults(trace)


def test_clocks_may_disagree_by_the_slack():
    trace = cuda_trace()
    records(trace)[0]["ts"] = 29.5
    assert faults(trace) == ()
    assert find_faults(trace, slack_us=0.1) == ("1 of 7 device records start before their launch",)


def test_a_kernel_of_an_earlier_step_that_leaked_in_is_found():
    trace = cuda_trace()
    trace["traceEvents"].append(span("old", "kernel", 2.0, 4.0, tid=99, correlation=9999))
    assert faults(trace) == ("1 of 8 device records were launched outside the window",)


def test_without_marks_the_window_is_the_step():
    trace = cuda_trace()
    trace["traceEvents"] = trace["traceEvents"][2:]
    records(trace)[0]["ts"] = 905.0
    assert faults(trace) == ("1 of 7 device records lie outside the window",)


@pytest.mark.parametrize("steps", [0, 2])
def test_there_is_exactly_one_step(steps):
    trace = cuda_trace()
    [step] = [event for event in trace["traceEvents"] if event["name"] == "ProfilerStep#1"]
    trace["traceEvents"].remove(step)
    trace["traceEvents"] += [copy.deepcopy(step) for _ in range(steps)]
    assert faults(trace) == (f"it holds {steps} steps (ProfilerStep#), expected exactly one",)


def test_operators_outside_the_step_do_not_count():
    trace = cuda_trace()
    for event in trace["traceEvents"]:
        if event.get("cat") == "cpu_op":
            event["ts"] = 950.0
    assert faults(trace) == ("no operator was recorded inside the step",)


@pytest.mark.parametrize(("expected", "fault"), [(True, ()), (None, ()), (False, ("an", "no"))])
def test_the_optimizer_step_is_as_expected(expected, fault):
    found = find_faults(cuda_trace(), on_device=True, optimizer_step=expected)
    assert found == (("it holds an optimizer step, expected no optimizer step",) if fault else ())
    without = cuda_trace()
    without["traceEvents"] = [e for e in without["traceEvents"] if not e["name"].startswith("Optimizer")]
    missing = ("it holds no optimizer step, expected an optimizer step",)
    assert find_faults(without, on_device=True, optimizer_step=expected) == (missing if expected else ())


@pytest.mark.parametrize("junk", [{}, {"traceEvents": None}, {"traceEvents": "gone"}])
def test_a_file_that_is_no_trace(junk):
    assert find_faults(junk) == ("it holds no list of events (traceEvents)",)


def test_a_cpu_trace_needs_no_kernels_unless_it_was_a_gpu():
    trace = {
        "traceEvents": [
            event for event in cuda_trace()["traceEvents"] if event.get("cat") in ("cpu_op", "user_annotation")
        ]
    }
    assert find_faults(trace) == ()
    assert find_faults(trace, on_device=True) == ("no kernel was recorded on the device",)
