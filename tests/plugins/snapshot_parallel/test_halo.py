"""Past frames from whoever keeps them, against the whole timeline; and when a halo moves less."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.snapshot_parallel import halo
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.halo import halo_frames, halo_moves_less, kept_steps, wanted_steps
from fulgurite.plugins.snapshot_parallel.partitioning import Partition, Split, partition

NODES = 3
# (costs, blocks, widths): short runs that need several owners, widths beyond a run, a block and the timeline.
CASES = [
    ([1] * 9, 1, (0, 1, 2, 4, 20)),
    ([1] * 9, 3, (1, 3, 5, 20)),
    ([1] * 5, 5, (2, 20)),
    ([9, 1, 1, 1, 1, 9, 1, 1, 2, 2, 1], 2, (1, 3, 6)),
    ([1, 1], 1, (1, 3)),
]


def windowed(part, width, exchange):
    """Every frame's window summed with distinct weights, and the gradients that each rank's own frames get."""
    steps = part.num_snapshots
    whole = torch.arange(steps * NODES, dtype=torch.float64).view(steps, NODES) + 1
    own = list(part.owned(exchange.rank))
    x = whole[own].clone().requires_grad_()
    at, carried, results = 0, None, []
    with exchange.chained() as chain:
        for split in part.blocks:
            start, stop = split.steps[exchange.rank]
            mine = x[at : at + stop - start]
            at += stop - start
            extended, carried = exchange.halo(mine, split, width=width, carried=carried)
            low = max(0, start - width) if stop > start else start
            assert torch.equal(extended, whole[low:stop])
            following = Split(
                steps=((split.stop,) * 2,) * part.ranks, vertices=(), earlier=(*split.earlier, split.steps)
            )
            assert torch.equal(carried, whole[kept_steps(following, exchange.rank, width)])
            results += [
                sum(extended[step - low - back] * (step + 1) * (back + 2) for back in range(min(width, step) + 1))
                for step in range(start, stop)
            ]
        empty = x.sum() * 0 + (0 if carried is None else carried.sum() * 0)
        result = chain.tie(torch.stack(results) if results else empty)
    result.sum().backward()
    return own, x.grad, dict(exchange.traffic.bytes)


def expected_gradient(steps, width):
    gradient = torch.zeros(steps, NODES, dtype=torch.float64)
    for step in range(steps):
        for back in range(min(width, step) + 1):
            gradient[step - back] += (step + 1) * (back + 2)
    return gradient


def every_case(ranks):
    return [
        windowed(partition(costs, NODES, ranks, blocks), width, GroupExchange()) for costs, blocks, width in cases()
    ]


def cases():
    return [(costs, blocks, width) for costs, blocks, widths in CASES for width in widths]


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_frames_come_from_their_owners_and_gradients_go_back_and_add_up(run_ranks, ranks):
    found = run_ranks(every_case, ranks, ranks)
    for number, (costs, blocks, width) in enumerate(cases()):
        part = partition(costs, NODES, ranks, blocks)
        gradient = torch.full((len(costs), NODES), torch.nan, dtype=torch.float64)
        for own, mine, _ in (rank[number] for rank in found):
            gradient[own] = mine
        assert torch.equal(gradient, expected_gradient(len(costs), width)), (costs, blocks, width)
        if ranks > 1:
            frames = sum(halo_frames(split, width) for split in part.blocks)
            for kind in ("halo", "halo/backward"):
                assert sum(rank[number][2][kind] for rank in found) == frames * NODES * 8


def test_one_process_gets_past_frames_from_its_carry():
    for costs, blocks, width in cases():
        _, gradient, sent = windowed(partition(costs, NODES, 1, blocks), width, Exchange())
        assert torch.equal(gradient, expected_gradient(len(costs), width))
        assert sent == {}


def test_frames_that_should_be_carried_are_asked_for():
    part = partition([1] * 4, NODES, 1, 2)
    with pytest.raises(ValueError, match="got no carried frames; expected 1"):
        Exchange().halo(torch.ones(2, NODES), part.blocks[1], width=1)
    with pytest.raises(ValueError, match="got 2 carried frames; expected 1"):
        Exchange().halo(torch.ones(2, NODES), part.blocks[1], width=1, carried=torch.ones(2, NODES))


def test_one_block_of_even_runs_moves_what_the_paper_counts():
    part = partition([1] * 40, NODES, ranks=4)
    assert halo_frames(part.blocks[0], 5) == (4 - 1) * 5
    many = partition([1] * 200, NODES, ranks=4, blocks=5)
    # C = 20 chunks of ten; (C - 1)(w - 1) of which each block's first rank had no frame itself.
    assert sum(halo_frames(split, 9) for split in many.blocks) == 19 * 9


def moved_by_counting(part: Partition, width: int) -> tuple[int, int]:
    """Frames times vertices that a halo and a redistribution there and back move, counted one by one."""
    halo = redistributed = 0
    owner = {step: rank for split in part.blocks for rank, run in enumerate(split.steps) for step in range(*run)}
    for split in part.blocks:
        for rank in range(part.ranks):
            wanted = wanted_steps(split, rank, width)
            halo += part.num_nodes * sum(owner[step] != rank for step in wanted)
            for step in range(split.start, split.stop):
                for other, (low, high) in enumerate(split.vertices):
                    if owner[step] == rank != other:
                        redistributed += 2 * (high - low)
    return halo, redistributed


@settings(deadline=None, max_examples=60)
@given(
    costs=st.lists(st.integers(0, 9), min_size=1, max_size=14),
    ranks=st.integers(1, 5),
    width=st.integers(0, 16),
    data=st.data(),
)
def test_the_choice_is_by_exact_bytes(costs, ranks, width, data):
    part = partition(costs, data.draw(st.integers(1, 7)), ranks, data.draw(st.integers(1, len(costs))))
    halo, redistributed = moved_by_counting(part, width)
    assert part.num_nodes * sum(halo_frames(split, width) for split in part.blocks) == halo
    assert halo_moves_less(part, width) == (halo <= redistributed)


@pytest.mark.parametrize(("ranks", "wins"), [(16, True), (24, False)])
def test_the_choice_is_the_notes_rule_of_thumb(ranks, wins):
    # P · nb · (w - 1) < 2 T: at T = 200 and w = 20 up to about 21 chunks.
    assert halo_moves_less(partition([1] * 200, 1000, ranks), 19) is wins


def test_which_moves_less_is_worked_out_once(monkeypatch):
    part = partition([1] * 40, 10, ranks=8)
    assert halo_moves_less(part, 4)
    assert not halo_moves_less(part, 30)
    monkeypatch.setattr(halo, "halo_frames", lambda split, width: 1 / 0)
    assert halo_moves_less(part, 4)
    assert not halo_moves_less(part, 30)
    assert part == partition([1] * 40, 10, ranks=8)
