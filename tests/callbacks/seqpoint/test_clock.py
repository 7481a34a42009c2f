import math

import pytest
import torch

from fulgurite.callbacks.seqpoint.clock import StepClock


class Host:
    """A host clock that a test moves by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Device:
    """A device that works off its queue when told to, behind the host; times in seconds."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.busy_until = 0.0
        self.reached = math.inf  # how far the host knows the device to be
        self.made = self.waits = 0

    def work(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.host.time) + seconds

    def event(self) -> "FakeEvent":
        self.made += 1
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.at = math.nan

    def record(self) -> None:
        self.at = max(self.device.busy_until, self.device.host.time)

    def query(self) -> bool:
        return self.at <= min(self.device.host.time, self.device.reached)

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.host.time = max(self.device.host.time, self.at)
        self.device.reached = math.inf

    def elapsed_time(self, end_event: "FakeEvent") -> float:
        assert self.query()
        assert end_event.query(), "torch raises for an event that the device has not come to"
        return (end_event.at - self.at) * 1e3


def step(clock, host, *, wait, seconds, before=0.0, behind=0.0, device=None, device_seconds=0.0, settle=False):
    host.time += wait
    clock.arrive()
    host.time += before
    clock.start()
    host.time += seconds
    if device is not None:
        device.work(device_seconds)
    clock.stop(settle=settle)
    host.time += behind
    clock.leave()


def test_wait_step_and_start_to_start_are_kept_apart():
    host = Host()
    clock = StepClock(torch.device("cpu"), now=host)
    clock.begin()
    step(clock, host, wait=0.5, seconds=2.0)
    step(clock, host, wait=0.25, seconds=3.0, before=0.125, behind=0.0625)
    times = clock.finish()
    assert times.waits.tolist() == [0.5, 0.25]
    assert times.seconds.tolist() == [2.0, 3.0]
    assert times.starts.tolist() == [2.5, 3.25]
    assert times.outside.tolist() == [0.0, 0.1875]
    assert times.starts.sum() + times.outside.sum() == host.time - 100.0


def test_validation_and_checkpoints_are_outside():
    host = Host()
    clock = StepClock(torch.device("cpu"), now=host)
    clock.begin()
    step(clock, host, wait=0.5, seconds=2.0)
    clock.interrupt()
    step(clock, host, wait=64.0, seconds=2.0)
    step(clock, host, wait=0.25, seconds=2.0)
    times = clock.finish()
    assert times.waits.tolist() == [0.5, 0.0, 0.25]
    assert times.outside.tolist() == [0.0, 64.0, 0.0]
    assert times.starts.sum() + 64.0 == host.time - 100.0


def test_what_happened_before_the_epoch_is_forgotten():
    host = Host()
    clock = StepClock(torch.device("cpu"), now=host)
    clock.interrupt()
    host.time += 50.0
    clock.begin()
    step(clock, host, wait=0.5, seconds=2.0)
    assert clock.finish().waits.tolist() == [0.5]


def test_a_step_that_was_not_finished_is_dropped():
    host = Host()
    clock = StepClock(torch.device("cpu"), now=host)
    clock.begin()
    step(clock, host, wait=0.5, seconds=2.0)
    clock.arrive()
    clock.start()
    times = clock.finish()
    assert len(clock) == len(times.seconds) == len(times.starts) == 1


def test_a_device_is_timed_by_its_own_events_and_never_waited_for_before_the_end():
    host = Host()
    device = Device(host)
    clock = StepClock(torch.device("cuda"), event=device.event, now=host)
    clock.begin()
    for n in range(50):  # the device needs ten times as long as the host: its queue grows
        step(clock, host, wait=0.0, seconds=0.125, device=device, device_seconds=1.25 + n % 2)
    assert device.waits == 0
    device.reached = host.time
    times = clock.finish()
    assert device.waits == 1
    # The first step starts on an idle device; the others where the one before ends.
    assert times.seconds.tolist() == pytest.approx([1.375] + [2.25, 1.25] * 24 + [2.25])
    assert times.starts.sum() == pytest.approx(device.busy_until - 100.0), "waiting for the queue counts to the epoch"


def test_events_are_used_again():
    host = Host()
    device = Device(host)
    clock = StepClock(torch.device("cuda"), event=device.event, now=host)
    clock.begin()
    for _ in range(200):
        step(clock, host, wait=0.25, seconds=0.125, device=device, device_seconds=0.25)
    assert device.made <= 6
    assert clock.finish().seconds.tolist() == pytest.approx([0.375] * 200)


def test_settle_waits_for_the_step_just_ended():
    host = Host()
    device = Device(host)
    clock = StepClock(torch.device("cuda"), event=device.event, now=host)
    clock.begin()
    step(clock, host, wait=0.0, seconds=0.125, device=device, device_seconds=4.0)
    step(clock, host, wait=0.0, seconds=0.125, device=device, device_seconds=4.0, settle=True)
    assert device.waits == 1
    assert host.time == device.busy_until
    assert clock.finish().seconds.tolist() == pytest.approx([4.125, 4.0])


def test_settle_between_steps_counts_to_the_step_before():
    """Before a trace the device is drained: training would have waited for that work later, so it is not ours."""
    host = Host()
    device = Device(host)
    clock = StepClock(torch.device("cuda"), event=device.event, now=host)
    clock.begin()
    step(clock, host, wait=0.0, seconds=0.125, device=device, device_seconds=4.0)
    clock.arrive()
    clock.settle()
    clock.settle()
    host.time += 0.5  # the profiler starts
    clock.start()
    host.time += 0.25
    clock.stop()
    clock.leave()
    times = clock.finish()
    assert device.waits == 1
    assert times.starts.tolist() == pytest.approx([4.125, 0.25])
    assert times.outside.tolist() == pytest.approx([0.0, 0.5])


def test_an_empty_epoch_is_empty():
    clock = StepClock(torch.device("cpu"))
    clock.begin()
    assert len(clock.finish().seconds) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_events():
    clock = StepClock(torch.device("cuda"))
    matrix = torch.randn(2048, 2048, device="cuda")
    clock.begin()
    for _ in range(20):
        clock.arrive()
        clock.start()
        matrix @ matrix
        clock.stop()
        clock.leave()
    times = clock.finish()
    assert (times.seconds > 0).all()
    assert times.starts.sum() >= 0.9 * times.seconds.sum()
