import pytest
import torch

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.residency import Residency
from fulgurite.plugins.snapshot_parallel.transfer import PinnedRing, Transfer, view

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PACKAGE = [
    ("events", torch.arange(5, dtype=torch.int32)),
    ("features", torch.randn(3, 2, generator=torch.Generator().manual_seed(0))),
    ("events", torch.zeros(0, dtype=torch.int32)),
    ("targets", torch.tensor([True, False, True])),
    ("features", torch.ones(2, dtype=torch.float64)),
]


def test_on_the_cpu_packages_are_counted_and_not_copied():
    transfer = Transfer("cpu")
    got = transfer.send(PACKAGE).take()
    assert all(a is b for a, (_, b) in zip(got, PACKAGE, strict=True))
    assert transfer.bytes == {"events": 20, "features": 24 + 16, "targets": 3}
    transfer.send(PACKAGE[:1])
    assert transfer.bytes["events"] == 40
    transfer.reset()
    assert transfer.bytes == {}


def test_views_of_a_buffer_are_the_tensors_packed_in_it():
    buffer = torch.zeros(64 * len(PACKAGE), dtype=torch.uint8)
    for place, (_, tensor) in enumerate(PACKAGE):
        view(buffer, tensor, 64 * place).copy_(tensor)
    for place, (_, tensor) in enumerate(PACKAGE):
        got = view(buffer, tensor, 64 * place)
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor)


@pytest.mark.gpu
@needs_cuda
def test_packages_arrive_whole_through_few_buffers():
    transfer = Transfer("cuda", slots=2)
    sent = [[("events", torch.full((100_000,), number, dtype=torch.int32))] for number in range(8)]
    arrivals = [transfer.send(package) for package in sent]
    for number, arrival in enumerate(arrivals):
        assert bool((arrival.take()[0] == number).all())
    assert transfer.bytes["events"] == 8 * 400_000
    for (_, tensor), got in zip(PACKAGE, transfer.send(PACKAGE).take(), strict=True):
        assert torch.equal(tensor, got.cpu())


@pytest.mark.gpu
@needs_cuda
def test_the_ring_grows_to_the_largest_package_and_no_further():
    ring = PinnedRing(torch.device("cuda", torch.cuda.current_device()), slots=2)
    for _ in range(20):
        ring.send([torch.zeros(1000)]).take()
    assert ring.nbytes == 2 * 4032  # 4,000 bytes, rounded up to a multiple of 64


@pytest.mark.gpu
@needs_cuda
def test_a_buffer_is_not_handed_out_while_its_reader_has_yet_to_run():
    transfer = Transfer("cuda")
    reader = torch.cuda.Stream()
    sums = []
    for number in range(16):
        arrival = transfer.send([("features", torch.full((1 << 20,), float(number)))])
        with torch.cuda.stream(reader):
            torch.cuda._sleep(5_000_000)
            (tensor,) = arrival.take()
            sums.append(tensor.sum())
        del tensor, arrival  # its memory may now be reused, but only after the sum
    reader.synchronize()
    assert [float(total) for total in sums] == [float(number << 20) for number in range(16)]


@pytest.mark.gpu
@needs_cuda
def test_what_lies_on_the_device_is_neither_sent_nor_counted():
    transfer = Transfer("cuda")
    there = torch.zeros(10, device="cuda")
    assert transfer.send([("features", there)]).take()[0] is there
    assert sum(transfer.bytes.values()) == 0


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("level", ["graphs", "events", "streamed"])
@pytest.mark.parametrize("symmetrise", [False, True])
def test_a_gpu_is_sent_the_same_bytes_and_builds_the_same_graphs(level, symmetrise):
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(200, (2, 5000), generator=generator)
    timeline = Timeline.from_events(
        source,
        target,
        torch.randint(20, (5000,), generator=generator),
        num_nodes=200,
        num_snapshots=20,
        window=5,
        symmetrise=symmetrise,
        degree_features=True,
        name="random",
    )
    runs = [(0, 7), (7, 14), (14, 20)]
    here, there = (Residency(device, residency=level) for device in ("cpu", "cuda"))
    peak = []
    for epoch in range(6):
        for run in [*runs, *reversed(runs)]:
            got = there.source(timeline, runs)
            graphs, features = got.graphs(*run), got.features(*run)
            want = build(timeline, *run)
            assert graphs.device.type == "cuda"
            assert all(torch.equal(getattr(graphs, n).cpu(), getattr(want, n)) for n in ("crow", "col", "value"))
            assert torch.equal(graphs.inv_sqrt_degree.cpu(), want.inv_sqrt_degree)
            cpu = here.source(timeline, runs)
            cpu.graphs(*run)
            torch.testing.assert_close(features.cpu(), cpu.features(*run))
        torch.cuda.synchronize()
        peak.append(torch.cuda.memory_allocated())
        assert here.bytes == there.bytes, epoch
    assert len(set(peak[2:])) == 1, "memory is flat"


def test_nothing_is_timed_where_nothing_is_copied():
    transfer = Transfer("cpu")
    with transfer.timed() as times:
        transfer.send([("targets", torch.zeros(3))]).take()
    assert (times.copies, times.waits, times.hidden) == ([], [], None)


@pytest.mark.gpu
@needs_cuda
def test_copies_and_waits_are_timed_on_their_streams():
    transfer = Transfer("cuda")
    with transfer.timed() as times:
        transfer.send([("features", torch.zeros(1_000_000))]).take()
    transfer.send([("features", torch.zeros(1_000_000))]).take()
    torch.cuda.synchronize()
    assert (len(times.copies), len(times.waits)) == (1, 1)
    assert times.copied > 0
    assert times.hidden is not None
    assert times.hidden <= 1
