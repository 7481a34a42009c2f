import pytest
import torch
import torch.distributed as dist
from torch import nn

from fulgurite.plugins.snapshot_parallel.exchange import Traffic
from fulgurite.plugins.snapshot_parallel.gradients import SummedGradients


class Model(nn.Module):
    """Two layers of two dtypes, one that some ranks leave out, and one that all do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 3, dtype=torch.float64)
        self.second = nn.Linear(2, 3)
        self.sometimes = nn.Linear(2, 1, dtype=torch.float64)
        self.never = nn.Linear(2, 1)

    def loss(self, step, rank, with_sometimes):
        """A term that differs by step and rank."""
        x = torch.tensor([[1.0 + rank, 2.0 - step]], dtype=torch.float64)
        loss = self.first(x).pow(2).sum() * (rank + 1) + self.second(x.float()).pow(3).sum() / (step + 1)
        return loss + self.sometimes(x).pow(2).sum() if with_sometimes else loss


def build(replicas=1, traffic=None):
    model = Model()
    rank, size = dist.get_rank(), dist.get_world_size()
    keeps = rank % (size // replicas) == 0
    return model, SummedGradients(model, group=dist.group.WORLD, keeps=keeps, replicas=replicas, traffic=traffic)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def reference(size, steps, replicas=1):
    model = Model()
    for step in steps:
        for rank in range(size):
            (model.loss(step, rank, rank == 1) / replicas).backward()
    return gradients(model)


def backward(model, summed, step):
    rank = dist.get_rank()
    with summed.around_backward():
        model.loss(step, rank, rank == 1).backward()


def assert_same(results, expected):
    for result in results:
        for got, want in zip(result, expected, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got, want, rtol=1e-12 if want.dtype == torch.float64 else 1e-5, atol=0)


@pytest.mark.distributed
@pytest.mark.parametrize(("size", "replicas"), [(1, 1), (2, 1), (3, 1), (4, 2), (4, 4)])
def test_gradients_are_summed_over_snapshots_and_averaged_over_replicas(run_ranks, size, replicas):
    def run():
        model, summed = build(replicas)
        backward(model, summed, 0)
        return gradients(model)

    if size == 1:
        assert_same(run_ranks(run, 1), reference(1, [0]))
    else:
        assert_same(run_ranks(run, size), reference(size, [0], replicas))


@pytest.mark.distributed
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("blocked", [(), (0,), (0, 1), (1,), (0, 2)])
def test_whatever_is_blocked_everything_is_summed_once(run_ranks, blocked, replicas):
    def run():
        model, summed = build(replicas)
        for step in range(4):
            if step in blocked:
                with summed.blocked():
                    backward(model, summed, step)
            else:
                backward(model, summed, step)
        return gradients(model)

    assert_same(run_ranks(run, 3), reference(3, range(4), replicas))


@pytest.mark.distributed
def test_a_sum_that_is_not_guarded_counts_sums_again(run_ranks):
    def run():
        model, summed = build()
        for step in range(2):
            model.loss(step, dist.get_rank(), dist.get_rank() == 1).backward()
            summed._open = dict.fromkeys(model.parameters())
            summed.after_backward()
        return gradients(model)

    with pytest.raises(AssertionError):
        assert_same(run_ranks(run, 2), reference(2, range(2)))


@pytest.mark.distributed
def test_gradients_that_were_thrown_away_or_scaled_stay_so(run_ranks):
    def run():
        model, summed = build()
        with summed.blocked():
            backward(model, summed, 0)
        model.zero_grad()
        backward(model, summed, 1)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.5  # as clipping does
        backward(model, summed, 2)
        return gradients(model)

    first, second = reference(2, [1]), reference(2, [2])
    expected = [None if a is None else 0.5 * a + b for a, b in zip(first, second, strict=True)]
    assert_same(run_ranks(run, 2), expected)


@pytest.mark.distributed
def test_frozen_parameters_keep_what_they_have(run_ranks):
    def run():
        model, summed = build()
        backward(model, summed, 0)
        kept = model.first.weight.grad.clone()
        model.first.requires_grad_(False)
        backward(model, summed, 1)
        return bool(torch.equal(kept, model.first.weight.grad)), gradients(model)

    results = run_ranks(run, 2)
    assert all(same for same, _ in results)
    assert_same([found[2:] for _, found in results], reference(2, range(2))[2:])


@pytest.mark.distributed
def test_one_reduction_for_each_dtype_is_counted(run_ranks):
    def run():
        traffic = Traffic()
        model, summed = build(traffic=traffic)
        backward(model, summed, 0)
        return traffic.bytes, traffic.calls

    model = Model()
    numbers = {
        dtype: sum(p.numel() + 1 for p in model.parameters() if p.dtype == dtype)
        for dtype in (torch.float64, torch.float32)
    }
    expected = sum(count * dtype.itemsize for dtype, count in numbers.items())
    assert run_ranks(run, 2) == 2 * [({"gradients": expected}, {"gradients": 2})]


@pytest.mark.distributed
def test_a_sparse_gradient_is_refused_by_name(run_ranks):
    def run():
        model = nn.Sequential(nn.Embedding(3, 2, sparse=True))
        summed = SummedGradients(model, group=dist.group.WORLD)
        with pytest.raises(ValueError, match=r"sparse gradient for 0\.weight"), summed.around_backward():
            model(torch.tensor([1])).sum().backward()

    run_ranks(run, 2)


def test_one_process_is_left_alone():
    model = nn.Linear(2, 1)
    summed = SummedGradients(model)
    for _ in range(2):
        with summed.around_backward():
            model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad.tolist() == [[2.0, 2.0]]
