import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.events import span
from fulgurite.plugins.snapshot_parallel.exchange import Exchange
from fulgurite.plugins.snapshot_parallel.formats import choose
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.residency import Residency, _within_container, resident_bytes
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

MODES = ("auto", "events", "full", "difference")
LEVELS = ("graphs", "events", "streamed")


def network(seed=0, *, steps=12, nodes=20, name="network", **options):
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randint(nodes, (2, 300), generator=generator)
    time = torch.randint(steps, (300,), generator=generator)
    given = {"window": 4, "degree_features": True, "name": name, **options}
    return Timeline.from_events(source, target, time, num_nodes=nodes, num_snapshots=steps, **given)


def epoch(residency, timeline, runs, *, backward=True):
    source = residency.source(timeline, runs)
    for start, stop in [*runs, *(reversed(runs) if backward else ())]:
        source.graphs(start, stop)
        source.features(start, stop)
    return source


@pytest.mark.parametrize(
    ("level", "mode"),
    [(level, mode) for level in LEVELS for mode in MODES if level != "events" or mode in ("auto", "events")],
)
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_every_level_and_mode_gives_the_same_graphs_and_features(level, mode, data, reference):
    timeline = data.draw(reference.timelines())
    bounds = sorted(data.draw(st.lists(st.integers(0, timeline.num_snapshots), max_size=3)))
    runs = list(zip([0, *bounds], [*bounds, timeline.num_snapshots], strict=True))
    residency = Residency("cpu", transfer=mode, residency=level)
    source, plain = residency.source(timeline, runs), Resident(timeline)
    for start, stop in [*runs, *reversed(runs), (0, timeline.num_snapshots)]:
        got, want = source.graphs(start, stop), build(timeline, start, stop)
        for name in ("crow", "col", "value", "inv_sqrt_degree"):
            a, b = getattr(got, name), getattr(want, name)
            assert (a is None and b is None) or torch.equal(a, b), name
        if timeline.degree_features or timeline.features is not None:
            features, expected = source.features(start, stop), plain.features(start, stop)
            assert features.dtype == expected.dtype
            assert torch.equal(features, expected)
        else:
            with pytest.raises(ValueError, match="without features"):
                source.features(start, stop)


def test_names_that_are_known_are_sent_once():
    residency = Residency("cpu", residency="graphs")
    runs = [(0, 5), (5, 12)]
    epoch(residency, network(), runs)
    sent = residency.bytes
    expected = sum(choose(network(), span(network(), *run)).total for run in runs)
    assert sum(sent.values()) == expected
    for _ in range(3):
        epoch(residency, network(), runs)  # a new object each epoch, as loaders make them
    assert residency.bytes == sent
    epoch(residency, network(name=None), runs)
    assert sum(residency.bytes.values()) == 2 * expected


def test_resident_events_travel_once_however_many_runs_there_are():
    timeline = network()
    residency = Residency("cpu", residency="events")
    runs = [(start, start + 1) for start in range(12)]
    for _ in range(3):
        epoch(residency, timeline, runs)
    assert residency.bytes == {"events": choose(timeline, span(timeline, 0, 12), "events").total}


def test_streamed_runs_are_sent_once_each_time_they_are_asked_for_even_if_foreseen():
    timeline, runs = network(), [(0, 4), (4, 8), (8, 12)]
    residency = Residency("cpu", residency="streamed")
    sizes = [choose(timeline, span(timeline, *run)).total for run in runs]
    epoch(residency, timeline, runs)
    first = sum(residency.bytes.values())
    # Forward 0 1 2, backward (2 is there still) 1 0.
    assert first == sum(sizes) + sizes[1] + sizes[0]
    for _ in range(4):
        epoch(residency, timeline, runs)
    per_epoch = sizes[1] + sizes[2] + sizes[1] + sizes[0]
    # Run 0 is there still as an epoch begins; from the second on the epoch's last run foresees the next one's second.
    assert sum(residency.bytes.values()) == first + 4 * per_epoch + sizes[1]


def test_the_level_follows_the_budget():
    timeline, runs = network(), [(0, 6), (6, 12)]
    graphs, events = resident_bytes(timeline, runs)
    assert graphs > events > 0
    for budget, level in (
        (graphs, "graphs"),
        (graphs - 1, "events"),
        (events, "events"),
        (events - 1, "streamed"),
        (0, "streamed"),
    ):
        residency = Residency("cpu", budget_bytes=budget)
        source = epoch(residency, timeline, runs)
        assert source.level == level
        assert residency.nbytes <= budget
    assert Residency("cpu").source(timeline).level == "graphs"
    assert Residency("cpu", transfer="full", budget_bytes=events).source(timeline).level == "streamed"


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_planned_bytes_are_those_that_stay(data, reference):
    timeline = data.draw(reference.timelines(degree_features=True, name="drawn"))
    residency = Residency("cpu", residency="graphs")
    source = residency.source(timeline)
    graphs, features = source.graphs(0, timeline.num_snapshots), source.features(0, timeline.num_snapshots)
    graphs.transposed()
    static = timeline.features.nbytes if timeline.features is not None and timeline.features.dim() == 2 else 0
    assert resident_bytes(timeline, [(0, timeline.num_snapshots)])[0] == graphs.nbytes + features.nbytes
    assert source.nbytes == graphs.nbytes + features.nbytes + static


def test_the_timeline_used_longest_ago_goes_where_both_do_not_fit():
    train, val, runs = network(1, name="train"), network(2, name="val"), [(0, 12)]
    both = sum(resident_bytes(timeline, runs)[0] for timeline in (train, val))
    roomy, tight = Residency("cpu", budget_bytes=both), Residency("cpu", budget_bytes=both - 1)
    for residency in (roomy, tight):
        for _ in range(2):
            for timeline in (train, val):
                assert epoch(residency, timeline, runs).level == "graphs"
    assert sum(tight.bytes.values()) == 2 * sum(roomy.bytes.values())
    assert tight.nbytes < both


def test_what_is_made_from_a_run_is_kept_where_the_run_is():
    timeline, calls = network(), []

    def make():
        calls.append(1)
        return torch.ones(3)

    kept = Residency("cpu", residency="graphs").source(timeline)
    assert kept.cached("first", 0, 12, make) is kept.cached("first", 0, 12, make)
    assert kept.cached("second", 0, 12, make) is not kept.cached("first", 0, 12, make)
    assert len(calls) == 2
    streamed = Residency("cpu", residency="streamed").source(timeline)
    streamed.cached("first", 0, 12, make)
    streamed.cached("first", 0, 12, make)
    assert len(calls) == 4
    graphs, _ = resident_bytes(timeline, [(0, 12)])
    full = Residency("cpu", budget_bytes=graphs + 11).source(timeline)  # twelve bytes are one too many
    assert full.cached("first", 0, 12, make) is not full.cached("first", 0, 12, make)


def test_what_needs_a_gradient_is_not_kept():
    source = Residency("cpu", residency="graphs").source(network())
    weight = torch.ones(2, requires_grad=True)
    first = source.cached("product", 0, 12, lambda: weight * 2)
    assert first.requires_grad
    assert source.cached("product", 0, 12, lambda: weight * 2) is not first


def test_made_in_inference_mode_and_used_in_training():
    source = Residency("cpu").source(network())
    with torch.inference_mode():
        source.graphs(0, 12)
        source.features(0, 12)
        made = source.cached("key", 0, 12, lambda: source.features(0, 12) * 2)
    weight = torch.ones(2, requires_grad=True)
    (source.features(0, 12) @ weight + made @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("level", LEVELS)
def test_memory_is_flat_over_a_hundred_epochs(level):
    residency, runs = Residency("cpu", residency=level), [(0, 4), (4, 8), (8, 12)]
    # Other tests leave tensors behind, some without a size (compiled code's): only what is made here counts.
    before = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    known = {id(thing) for thing in before}
    alive = []
    for number in range(100):
        epoch(residency, network(), runs)
        if number in (9, 99):
            gc.collect()
            tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
            sizes = [thing.nbytes for thing in tensors if id(thing) not in known]
            del tensors
            alive.append((len(sizes), sum(sizes), residency.nbytes))
    assert alive[0] == alive[1]


def test_targets_are_counted():
    residency = Residency("cpu")
    source = residency.source(network())
    tensor = torch.zeros(5, dtype=torch.int64)
    assert source.send(tensor, "targets") is tensor, "on the CPU nothing is copied"
    assert residency.bytes == {"targets": 40}


@pytest.mark.parametrize(("level", "times"), [("graphs", 1), ("events", 1), ("streamed", 3), ("auto", 1)])
def test_targets_are_sent_again_only_where_everything_is(level, times):
    generator = torch.Generator().manual_seed(0)
    timeline = network(
        target_index=torch.randint(20, (2, 50), generator=generator),
        target_label=torch.randint(2, (50,), generator=generator),
        target_time=torch.randint(12, (50,), generator=generator),
        scored=[True] * 9 + [False] * 3,
    )
    runs = [(0, 6), (6, 12)]
    part = partition([1] * 12, 20, ranks=1, blocks=2)
    budget = max(resident_bytes(timeline, runs)) if level == "auto" else None  # not a byte more
    residency = Residency("cpu", residency=level, budget_bytes=budget)
    for _ in range(3):
        source = epoch(residency, timeline, runs)
        targets = Shard.build(timeline, part, Exchange(), source=source).targets
    assert len(targets.step) == int(timeline.target_offsets[9])
    assert targets.nbytes == 5 * 8 * len(targets.step)
    assert residency.bytes["targets"] == times * targets.nbytes


def test_resident_events_bring_the_own_steps_features_alone():
    timeline = network(features=torch.randn(12, 20, 3, generator=torch.Generator().manual_seed(0)), m_window=2)
    residency, runs = Residency("cpu", residency="events"), [(2, 4), (8, 10)]
    source = epoch(residency, timeline, runs)
    sent = timeline.features[0].nbytes * (3 + 3)  # with the snapshot before each, which M reaches
    assert residency.bytes["features"] == sent
    built = max(source.graphs(*run).nbytes * 2 + source.features(*run).nbytes for run in runs)
    assert resident_bytes(timeline, runs)[1] <= residency.nbytes + built
    whole = Resident(timeline)
    for run in runs:
        assert torch.equal(source.features(*run), whole.features(0, 12)[slice(*run)])
    assert torch.equal(source.features(5, 6), whole.features(5, 6))  # not planned
    assert residency.bytes["features"] == sent + 2 * timeline.features[0].nbytes


@pytest.mark.parametrize("level", ["events", "streamed"])
def test_one_timeline_at_a_time_has_a_run_at_hand(level):
    residency, runs = Residency("cpu", residency=level), [(0, 6), (6, 12)]
    references = []
    for seed in range(3):
        source = residency.source(network(seed, name=f"{seed}"), runs)
        references.append(weakref.ref(source.graphs(0, 6)))
    gc.collect()
    assert [reference() is not None for reference in references] == [False, False, True]


def test_few_streamed_timelines_are_remembered():
    residency = Residency("cpu", residency="streamed", transfer="full")
    for seed in range(40):
        epoch(residency, network(seed, name=f"{seed}"), [(0, 12)])
    assert len(residency._sources) == 16
    sent = sum(residency.bytes.values())
    epoch(residency, network(0, name="0"), [(0, 12)])  # forgotten, made anew
    assert sum(residency.bytes.values()) > sent


def test_a_container_s_limit_counts(tmp_path):
    assert _within_container(tmp_path) == 2**62
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert _within_container(tmp_path) == 2**62
    (tmp_path / "memory.max").write_text("1000\n")
    assert _within_container(tmp_path) == 700
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 50\n")
    assert _within_container(tmp_path) == 750
    old = tmp_path / "old" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500")
    (old / "memory.usage_in_bytes").write_text("600")
    assert _within_container(tmp_path / "old") == 0


def test_raw_events_are_views_on_the_cpu():
    timeline = network()
    residency = Residency("cpu", residency="events", transfer="events")
    source = epoch(residency, timeline, [(0, 12)])
    assert source._events[0].source.data_ptr() == timeline.edge_index.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfer": "all"}, "got transfer='all'; expected one of auto, events, full, difference"),
        ({"residency": "host"}, "got residency='host'; expected one of auto, graphs, events, streamed"),
        ({"residency": "events", "transfer": "full"}, "got residency='events' with transfer='full'"),
        ({"budget_bytes": -1}, "got budget_bytes=-1; expected 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Residency("cpu", **options)
