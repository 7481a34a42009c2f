"""What ranks send each other, to the byte: the closed formulas of the distribution, for every network."""

import numpy as np
import pytest
import torch

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn import CDGCN, TGCN, TMGCN, WDGCN, DynamicNetwork, EvolveGCNH, EvolveGCNO
from fulgurite.plugins.snapshot_parallel.exchange import GroupExchange
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

T, N, FEATURES = 11, 13, 4
# Widths on the way to the vertices and back, layer by layer, and whether the way there has a gradient; by hand.
REDISTRIBUTED = {
    "WDGCN": (lambda: WDGCN(FEATURES, (5, 3)), [(5, 5, True), (3, 3, True)]),
    "CDGCN": (lambda: CDGCN(FEATURES, (5, 3)), [(5 + 4, 5, True), (3 + 5, 3, True)]),
    # Convolutions that act on the features alone need no gradient of what they sum.
    "TGCN": (lambda: TGCN(FEATURES, (5, 3)), [(4, 5, False), (5, 3, True)]),
    # The first layer's products over time come with the timeline.
    "TMGCN": (lambda: TMGCN(FEATURES, (5, 3), window=3), [(5, 5, True)]),
}
CUTS = [(1, "none"), (3, "none"), (3, "save"), (3, "resend")]


def timeline(m_window: int = 1) -> Timeline:
    generator = torch.Generator().manual_seed(5)
    source, target = torch.randint(N, (2, 9 * T), generator=generator)
    features = torch.randn(T, N, FEATURES, generator=generator)
    given = {"num_nodes": N, "window": 2, "m_window": m_window, "features": features}
    return Timeline.from_events(source, target, torch.arange(T).repeat_interleave(9), **given)


def sent(make: DynamicNetwork, batch: Timeline, blocks: int, collectives: str, wire: torch.dtype | None = None) -> dict:
    """One forward and one backward pass on this rank."""
    torch.manual_seed(0)
    network = make()
    exchange = GroupExchange(halo_mode="never", wire_dtype=wire)
    cut = partition(np.arange(T, 0, -1), N, exchange.size, blocks)
    shard = Shard.build(batch, cut, exchange, source=Resident(batch), collectives=collectives)
    embeddings = shard.run(network)
    (embeddings.sin().sum() + shard.anchor(embeddings)).backward()
    calls = sum(exchange.traffic.calls.values())
    return {"bytes": dict(exchange.traffic.bytes), "calls": calls, "cut": cut, "rank": exchange.rank}


def formula(cut, rank: int, widths: list[tuple[int, int, bool]], itemsize: int, forwards: int) -> dict[str, int]:
    """t_p (N - n_p) F s to the vertices and n_p (T_b - t_p) F s back; backward swaps the two."""
    expected = dict.fromkeys(("to_vertices", "to_snapshots", "to_vertices/backward", "to_snapshots/backward"), 0)
    for split in cut.blocks:
        t, n, steps = split.steps_each[rank], split.vertices_each[rank], split.num_steps
        away, home = t * (N - n) * itemsize, n * (steps - t) * itemsize
        for there, back, has_gradient in widths:
            expected["to_vertices"] += forwards * away * there
            expected["to_snapshots"] += forwards * home * back
            expected["to_vertices/backward"] += home * there * has_gradient
            expected["to_snapshots/backward"] += away * back
    return expected


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("name", REDISTRIBUTED)
def test_redistributions_are_the_formula(run_ranks, name, ranks):
    make, widths = REDISTRIBUTED[name]
    batch = timeline(m_window=3 if name == "TMGCN" else 1)
    results = run_ranks(lambda: [sent(make, batch, *cut) for cut in CUTS], ranks)
    for rank, said in enumerate(results):
        for (blocks, collectives), got in zip(CUTS, said, strict=True):
            expected = formula(got["cut"], rank, widths, 4, forwards=2 if collectives == "resend" else 1)
            assert got["bytes"] == {kind: n for kind, n in expected.items() if kind in got["bytes"] or n}, (
                blocks,
                collectives,
            )
        plain, saved, resent = (said[i]["calls"] for i in (1, 2, 3))
        assert plain == saved < resent, "what was saved is not sent again"


@pytest.mark.distributed
def test_over_all_ranks_the_volume_is_nearly_the_same_for_any_number_of_them(run_ranks):
    make, widths = REDISTRIBUTED["CDGCN"]
    batch = timeline()
    for ranks in (2, 4):
        results = run_ranks(lambda: sent(make, batch, 1, "none"), ranks)
        total = sum(sum(said["bytes"].values()) for said in results)
        channels = sum(there + back for there, back, _ in widths)
        even = 2 * (ranks - 1) / ranks * T * N * channels * 4
        assert abs(total / even - 1) < 0.1


@pytest.mark.distributed
def test_half_precision_on_the_wire_halves_the_bytes(run_ranks):
    make, widths = REDISTRIBUTED["WDGCN"]
    batch = timeline()
    for rank, got in enumerate(run_ranks(lambda: sent(make, batch, 1, "none", torch.bfloat16), 2)):
        assert got["bytes"] == formula(got["cut"], rank, widths, 2, forwards=1)


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 3])
def test_evolving_weights_send_summaries_or_nothing(run_ranks, ranks):
    batch = timeline()

    def on_rank() -> list[dict]:
        nets = (lambda: EvolveGCNO(FEATURES, (4, 3)), lambda: EvolveGCNH(FEATURES, (4, 3)))
        return [sent(make, batch, 1, "none") for make in nets]

    for rank, (first, second) in enumerate(run_ranks(on_rank, ranks)):
        assert sum(first["bytes"].values()) == 0
        t = second["cut"].blocks[0].steps_each[rank]
        # The summary of a snapshot is as large as a layer's weights. The first layer's is made of features alone, but
        # its scores are learnt.
        numbers = 4 * 4 + 4 * 3
        assert second["bytes"]["gather"] == t * numbers * 4 * (ranks - 1)
        assert second["bytes"]["gather/backward"] == (T - t) * numbers * 4
