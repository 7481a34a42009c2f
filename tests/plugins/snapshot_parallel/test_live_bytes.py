import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.plugins.snapshot_parallel.live_bytes import LiveBytes


def test_a_storage_counts_once_until_its_last_view_is_gone():
    with LiveBytes() as count:
        a = torch.zeros(10, 10)
        view = a.view(-1)[3:]
        assert count.live == 400
        del a
        assert count.live == 400
        del view
        assert count.live == 0
    assert count.peak == 400


def test_views_of_what_was_there_before_are_not_new():
    before = torch.zeros(1000)
    with LiveBytes() as count:
        view = before.view(10, 100).t()
        before.add_(1)
        assert count.live == count.peak == 0
        made = view.contiguous()
        assert count.live == 4000
    assert made.shape == (100, 10)


def test_a_storage_that_grows_is_counted_anew():
    with LiveBytes() as count:
        a = torch.zeros(4)
        a.resize_(100)
        assert count.live == 400
        a.set_()
        assert count.live == 0


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors_count_by_their_parts():
    dense = torch.eye(8, dtype=torch.float64)
    with LiveBytes() as count:
        csr = dense.to_sparse_csr()
        gc.collect()
        parts = (csr.crow_indices(), csr.col_indices(), csr.values())
        assert count.live == sum(part.untyped_storage().nbytes() for part in parts) >= 9 * 8 + 8 * 8 + 8 * 8


def test_backward_is_counted_too():
    weight = torch.zeros(4, 8, requires_grad=True)
    x = torch.zeros(1000, 4)
    with LiveBytes() as count:
        out = (x @ weight).tanh()  # tanh keeps its output, 32,000 B; the product is let go
        assert (count.live, count.peak) == (32_000, 64_000)
        count.restart()
        assert count.peak == 32_000
        out.backward(torch.ones_like(out))
        del out
        assert count.peak > 64_000
        assert count.live == weight.grad.nbytes


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_nothing_stays_counted_after_a_pass(batch, width, layers):
    network = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)))
    x = torch.ones(batch, width)
    with LiveBytes() as count:
        network(x).sum().backward()
        gc.collect()
        grads = sum(parameter.grad.untyped_storage().nbytes() for parameter in network.parameters())
        assert count.live == grads
        assert count.peak >= layers * batch * width * 4


def test_other_devices_can_be_left_out():
    with LiveBytes("cuda") as count:
        torch.zeros(1000)
    assert count.peak == 0
    assert count.allocated_peak is None


@pytest.mark.gpu
def test_the_allocator_agrees():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.zeros(1, device="cuda")
    with LiveBytes("cuda") as count:
        a = torch.zeros(1 << 20, device="cuda")
        del a
    assert count.peak == 4 << 20
    assert count.allocated_peak == 4 << 20
