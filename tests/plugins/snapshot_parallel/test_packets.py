import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.snapshot_parallel.events import span, windows
from fulgurite.plugins.snapshot_parallel.formats import choose
from fulgurite.plugins.snapshot_parallel.packets import pack, unpack


@pytest.mark.parametrize("mode", ["auto", "events", "full", "difference"])
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_every_way_brings_the_same_lists_in_the_bytes_it_tells(mode, data, reference):
    timeline = data.draw(reference.timelines())
    start, stop = data.draw(reference.runs(timeline).filter(lambda run: run[0] < run[1]))
    cut = data.draw(st.booleans())
    if cut:
        timeline, start, stop = timeline.slice_time(start, stop), 0, stop - start
    run = span(timeline, start, stop)
    choice = choose(timeline, run, mode)
    packet = pack(timeline, run, choice)
    sent = {}
    for kind, tensor in packet.tensors:
        sent[kind] = sent.get(kind, 0) + tensor.nbytes
    assert {kind: count for kind, count in sent.items() if count} == {k: b for k, b in choice.bytes.items() if b}
    got, _ = unpack(packet, [tensor.clone() for _, tensor in packet.tensors], timeline)
    want = windows(timeline, start, stop)
    for name in ("crow", "col", "value"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert getattr(got, name).dtype == getattr(want, name).dtype
