import json

import pytest
import torch

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn import TMGCN, WDGCN, EvolveGCNO, GConvGRU
from fulgurite.plugins.snapshot_parallel import planner
from fulgurite.plugins.snapshot_parallel.calibration import Link
from fulgurite.plugins.snapshot_parallel.memory import predict
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.planner import plan_ranks
from fulgurite.plugins.snapshot_parallel.residency import Residency
from fulgurite.plugins.snapshot_parallel.statistics import Statistics
from fulgurite.plugins.snapshot_parallel.streamed import about_transfer, streamed_bytes

STATISTICS = Statistics.parse("snapshots=16,nodes=64,nnz=100,features=2")
LINK = Link("test", 1e-3, 1e6)
PLENTY = 1 << 40


def plan_of(network, ranks=(1, 2, 4), statistics=STATISTICS, **options):
    return plan_ranks(network, statistics, **{"ranks": ranks, "memory_bytes": PLENTY, "link": LINK, **options})


def test_bytes_and_calls_follow_from_the_formula():
    plan = plan_of(WDGCN(2))
    weights = 4 * sum(parameter.numel() for parameter in WDGCN(2).parameters())
    for row in plan.rows:
        p = row.ranks
        # Two layers, six features there and back, forward and backward; then the ring of gradients and loss weights.
        moved = 2 * 2 * (p - 1) / p * 16 * 64 * (6 + 6) * 4
        assert row.total_sent == pytest.approx(moved + 2 * (p - 1) * (weights + 8), abs=p)
        assert row.calls == (0 if p == 1 else 2 * 2 * 2 + 2)
        assert row.communication == LINK.seconds(calls=row.calls, sent=row.sent, ranks=p)
        assert row.step == row.compute + row.communication + row.transfer
        assert row.exchange == ("none" if p == 1 else "all-to-all")


def test_one_rank_is_the_measure_of_efficiency():
    plan = plan_of(WDGCN(2))
    first = plan.rows[0]
    assert (first.speedup, first.efficiency) == (1, 1)
    for row in plan.rows:
        assert row.efficiency == pytest.approx(first.step / row.step / row.ranks)
    assert [row.ranks for row in plan_of(WDGCN(2), ranks=(4,)).rows] == [4]


def test_weights_alone_move_nothing_but_gradients():
    plan = plan_of(EvolveGCNO(2))
    assert {row.exchange for row in plan.rows} == {"none"}
    assert plan.rows[-1].calls == 2


def test_few_chunks_of_a_window_take_the_halo():
    statistics = Statistics.parse("snapshots=64,nodes=64,nnz=100,features=2,m_window=5")
    rows = plan_of(TMGCN(2, window=5), ranks=(2, 64), statistics=statistics).rows
    assert [row.exchange for row in rows] == ["halo", "all-to-all"]


def test_a_network_coupled_through_the_graph_is_planned_for_one_rank():
    plan = plan_of(GConvGRU(2))
    assert [row.ranks for row in plan.rows] == [1]
    assert any("GConvGRU couples snapshots" in note for note in plan.notes)


def test_little_memory_means_blocks_and_none_at_all_is_said():
    whole = predict(WDGCN(2), STATISTICS).total
    tight = plan_of(WDGCN(2), ranks=(1, 2), memory_bytes=int(whole * 0.75))
    assert tight.rows[0].memory.blocks > 1
    assert all(row.fits for row in tight.rows)
    nothing = plan_of(WDGCN(2), ranks=(1, 2), memory_bytes=1000)
    assert not any(row.fits for row in nothing.rows)
    assert nothing.recommended is None
    assert nothing.reason.startswith("Nothing fits: even 2 ranks")


def test_ranks_beyond_the_snapshots_idle():
    row = plan_of(WDGCN(2), ranks=(32,)).rows[0]
    assert row.idle == 16
    assert row.basis == "replayed"


def test_too_large_a_shard_is_scaled_and_a_spent_budget_fits(monkeypatch):
    monkeypatch.setitem(planner._ELEMENTS, "cpu", 100)
    plan = plan_of(WDGCN(2), ranks=(1, 2, 4, 8), budget=0.0)
    assert [row.basis for row in plan.rows] == ["fitted", "fitted", "scaled", "scaled"]
    assert all(row.compute > 0 for row in plan.rows)


def test_a_real_timelines_shards_run():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(30, (2, 300), generator=generator)
    time = torch.arange(300) % 8
    timeline = Timeline.from_events(source.numpy(), target.numpy(), time.numpy(), symmetrise=True, degree_features=True)
    plan = plan_of(WDGCN(2), ranks=(1, 2), statistics=Statistics.of(timeline), timeline=timeline)
    assert {row.basis for row in plan.rows} == {"replayed"}


def test_the_fit_is_a_line_that_never_falls():
    ran = [
        planner._Compute(ranks, elements, seconds, "replayed")
        for ranks, elements, seconds in [(4, 100.0, 3.0), (2, 200.0, 5.0)]
    ]
    assert planner._fitted(ran, 400.0) == pytest.approx(9.0)
    falling = [planner._Compute(4, 100.0, 5.0, "replayed"), planner._Compute(2, 200.0, 3.0, "replayed")]
    assert planner._fitted(falling, 400.0) > 5.0


def test_the_dearest_rank_and_the_longest_are_replayed():
    statistics = Statistics(snapshots=4, nodes=8, nnz=(90, 10, 10, 10), features=1, events=0)
    part = partition(statistics.nnz, 8, 2)
    assert planner._sample(statistics, part) == [0, 1]
    assert planner._sample(STATISTICS, STATISTICS.partition(4)) == [0]


@pytest.mark.parametrize("ranks", [(), (0, 1), (-2,)])
def test_numbers_of_ranks_that_cannot_be_are_refused(ranks):
    with pytest.raises(ValueError, match="expected one or more numbers, each 1 or more"):
        plan_of(WDGCN(2), ranks=ranks)


def test_a_plan_is_plain_json(tmp_path):
    plan = plan_of(WDGCN(2), ranks=(1, 2))
    plan.save(tmp_path / "plan.json")
    read = json.loads((tmp_path / "plan.json").read_text())
    assert read["predicted"] is True
    assert [row["ranks"] for row in read["rows"]] == [1, 2]
    assert read["rows"][1]["memory"]["total"] == plan.rows[1].memory.total
    assert read["recommended"]["ranks"] == plan.recommended.ranks
    assert Statistics.from_dict(read["statistics"]) == STATISTICS


def test_long_runs_of_sparse_snapshots_are_pointed_out():
    statistics = Statistics(snapshots=16, nodes=64, nnz=(1,) * 12 + (200,) * 4, features=2, events=0)

    def said(**options):
        return [
            note
            for note in plan_of(WDGCN(2), ranks=(2, 4), statistics=statistics, **options).notes
            if "longest" in note
        ]

    assert "With 4 ranks the longest run of snapshots is 3.2 times the mean" in said()[0]
    assert 'With balance "nnz+nodes" it is 1.5 times, and the most entries of a rank are 2.0 times' in said()[0]
    assert not said(balance="nnz+nodes")
    assert not [note for note in plan_of(WDGCN(2)).notes if "longest" in note]


def test_what_is_streamed_is_what_a_source_sends():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(30, (2, 300), generator=generator)
    time, features = torch.arange(300) % 8, torch.randn(8, 30, 3, generator=generator)
    timeline = Timeline.from_events(source.numpy(), target.numpy(), time.numpy(), window=3, features=features)
    statistics = Statistics.of(timeline)
    for ranks, blocks, collectives in ((1, 1, "none"), (2, 1, "none"), (1, 4, "resend"), (3, 2, "save")):
        plan = predict(WDGCN(3), statistics, ranks=ranks, blocks=blocks, collectives=collectives)
        sent = []
        for rank in range(ranks):
            runs = [split.steps[rank] for split in plan.partition.blocks]
            residency = Residency("cpu", residency="streamed")
            stream = residency.source(timeline, runs)
            for run in [*runs, *(reversed(runs) if collectives != "none" else ())]:
                stream.graphs(*run)
            sent.append(sum(residency.bytes.values()))
        assert streamed_bytes(plan, statistics, timeline) == max(sent)
    events = Statistics.parse("snapshots=4,nodes=10,nnz=100,features=2,events=100")
    assert streamed_bytes(predict(WDGCN(2), events), events) == 4 * 10 * 2 * 4 + 800
    dense = Statistics.parse("snapshots=4,nodes=10,nnz=100,features=2,events=1000")
    assert streamed_bytes(predict(WDGCN(2), dense), dense) == 4 * 10 * 2 * 4 + 4 * (800 + 44)


def test_copies_take_time_on_a_device_of_its_own_alone(monkeypatch):
    assert {row.transfer for row in plan_of(WDGCN(2), residency="streamed").rows} == {0.0}
    assert any("no time goes into copies" in note for note in plan_of(WDGCN(2), residency="streamed").notes)
    told = about_transfer("streamed", 25e9, on_cpu=False)
    assert "over 25 GB a second" in told
    assert "(transfer 0)" in about_transfer("graphs", 25e9, on_cpu=False)
    monkeypatch.setattr(planner, "_device", lambda network: torch.device("cuda"))
    monkeypatch.setattr(planner, "_device_name", lambda network: "a GPU")
    monkeypatch.setattr(
        planner,
        "_compute",
        lambda network, statistics, memory, **_: {
            count: planner._Compute(count, 1.0, 1e-3, "replayed") for count in memory
        },
    )
    for row in plan_of(WDGCN(2), residency="streamed", bandwidth=1e6).rows:
        assert row.transfer == streamed_bytes(row.memory, STATISTICS) / 1e6 > 0
        assert row.step == row.compute + row.communication + row.transfer
