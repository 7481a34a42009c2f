"""torch.compile of networks and tasks: eager's numbers, one graph from tensors to tensors, also in a new process."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from fulgurite.data import TemporalGraph
from fulgurite.data.timeline import Timeline
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.models.dynamic_gnn import (
    CDGCN,
    TGCN,
    TMGCN,
    WDGCN,
    DynamicLinkPredictor,
    EvolveGCNH,
    EvolveGCNO,
    GConvGRU,
    NoGraph,
    StaticGCN,
)
from fulgurite.models.dynamic_gnn.vertex_lstm import VertexLSTM
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

STEPS, NODES, WIDTH, WINDOW = 4, 10, 3, 3
NETWORKS = {
    "CD-GCN": CDGCN,
    "WD-GCN": WDGCN,
    "T-GCN": TGCN,
    "TM-GCN": lambda *a, **k: TMGCN(*a, window=WINDOW, mix_output=True, **k),
    "EvolveGCN-O": EvolveGCNO,
    "EvolveGCN-H": EvolveGCNH,
    "GConvGRU": GConvGRU,
    "StaticGCN": StaticGCN,
    "memory": lambda *a, backend: NoGraph(*a, memory=True),
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def timeline_of(name="", seed=0, *, nodes=NODES, events=50):
    draw = np.random.default_rng(seed)
    features = torch.from_numpy(draw.standard_normal((STEPS, nodes, WIDTH))).float()
    return Timeline.from_events(
        *draw.integers(0, nodes, (2, events)),
        draw.integers(0, STEPS, events),
        num_nodes=nodes,
        num_snapshots=STEPS,
        features=features,
        window=2,
        m_window=WINDOW if name == "TM-GCN" else 1,
    )


def shard_of(timeline, *, blocks=1, collectives="none", exchange=None):
    exchange = exchange or Exchange()
    part = partition([1] * STEPS, timeline.num_nodes, ranks=exchange.size, blocks=blocks)
    return Shard.build(timeline, part, exchange, source=Resident(timeline), collectives=collectives)


def network_of(name, **options):
    torch.manual_seed(0)
    return NETWORKS[name](WIDTH, (5, 4), **options)


def results(network, outputs):
    """The loss and the gradients of all parameters, in a row."""
    loss = sum(output.float().square().sum() for output in outputs)
    gradients = torch.autograd.grad(loss, [*network.parameters()])
    return torch.cat([loss.detach()[None], *(gradient.flatten() for gradient in gradients)])


def run_block(network, module, block, *, half=False):
    """Of a network, by the module that was compiled of it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        embeddings, carry = module(block, network.initial_carry(block))
    return results(network, (embeddings, *carry))


def near(got, expected, *, half=False):
    # Half precision: rounding of 8 bits in every product, of other sums than eager's.
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0.04 if half else 1e-4, atol=(0.02 if half else 1e-5) * scale)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_that_was_read_is_one_graph(name, half):
    network = network_of(name, backend="edges")
    block = shard_of(timeline_of(name)).blocks[0]
    expected = run_block(network, network, block, half=half)
    # aot_eager traces what autograd makes of it too, which is long for recurrences: once a network is enough.
    compiled = torch.compile(network, fullgraph=True, backend="eager" if half else "aot_eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        read = network.read(block)
    near(run_block(network, compiled, read, half=half), expected, half=half)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_breaks_once_to_read_its_block(name):
    network = network_of(name, backend="auto")
    shard = shard_of(timeline_of(name))
    expected = results(network, [shard.run(network)])
    compiled = torch.compile(network, backend="eager")
    near(results(network, [shard.run(compiled)]), expected)
    reasons = [reason for reason, count in counters["graph_break"].items() for _ in range(count)]
    assert len(reasons) == 1, reasons
    assert "DynamicNetwork.read" in reasons[0]


def test_other_graphs_are_not_taken_for_the_first():
    network = network_of("CD-GCN", backend="edges")
    compiled = torch.compile(network, backend="eager")
    for seed, nodes, events in ((0, 10, 50), (1, 10, 70), (2, 13, 40)):
        shard = shard_of(timeline_of(seed=seed, nodes=nodes, events=events))
        near(results(network, [shard.run(compiled)]), results(network, [shard.run(network)]))


@pytest.mark.parametrize("collectives", ["none", "save", "resend"])
def test_blocks_run_again_as_they_ran_first(collectives):
    network = network_of("WD-GCN", backend="edges")
    shard = shard_of(timeline_of(), blocks=2, collectives=collectives)
    expected = results(network, [shard.run(network)])
    network.compile(backend="aot_eager")
    near(results(network, [shard.run(network)]), expected)
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.distributed
def test_two_ranks(run_ranks):
    name = "EvolveGCN-H"

    def rank():
        network = network_of(name, backend="edges")
        shard = shard_of(timeline_of(name), blocks=2, collectives="save", exchange=GroupExchange())
        expected = results(network, [shard.run(network)])
        network.compile(backend="eager")
        return expected, results(network, [shard.run(network)])

    for expected, got in run_ranks(rank, 2):
        near(got, expected)


@pytest.mark.slow
def test_inductor():
    network = network_of("WD-GCN", backend="edges")
    block = shard_of(timeline_of()).blocks[0]
    # One compile thread: inductor's pool would outlive the test.
    compiled = torch.compile(network, fullgraph=True, options={"compile_threads": 1})
    near(run_block(network, compiled, network.read(block)), run_block(network, network, block))


def test_lstm_is_that_of_torch():
    torch.manual_seed(0)
    expected = torch.nn.LSTM(3, 4)
    torch.manual_seed(0)
    module = VertexLSTM(3, 4)
    x, h, c = torch.randn(5, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    hidden, state = module(x, (h, c))
    compiled, compiled_state = torch.compile(module, fullgraph=True, backend="eager")(x, (h, c))
    wanted, wanted_state = expected(x, (h, c))
    assert torch.equal(hidden, wanted)
    torch.testing.assert_close((hidden, *state), (wanted, *wanted_state), rtol=0, atol=0)
    torch.testing.assert_close((compiled, *compiled_state), (wanted, *wanted_state))
    module.load_state_dict(expected.state_dict())


def fit(compiled):
    torch.manual_seed(0)
    module = DynamicLinkPredictor(CDGCN(2, [4], backend="edges"), negatives=3)
    data = TemporalGraph(generator=TransactionGraph(num_nodes=60, num_steps=12, events_per_step=30.0), edge_life=3)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(torch.compile(module, backend="eager") if compiled else module, data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_module_that_lightning_trains():
    expected = fit(compiled=False)
    got = fit(compiled=True)
    assert got == pytest.approx(expected, rel=1e-3)
    assert sum(counters["graph_break"].values()) == 2, counters["graph_break"]  # in training and in validation
    assert counters["stats"]["unique_graphs"] >= 4  # network and head of each


def cold(name):
    """In a process that has read no graph yet."""
    network = network_of(name, backend="edges")
    shard = Shard.whole(timeline_of(name))
    compiled = results(network, [shard.run(torch.compile(network, backend="eager"))])
    module = DynamicLinkPredictor(network)
    torch.compile(module, backend="eager")(timeline_of(name, seed=1).replace(name=None))
    near(compiled, results(network, [shard.run(network)]))


def test_cold_process():
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "EvolveGCN-H"]
    subprocess.run(command, check=True, timeout=240)


if __name__ == "__main__":
    cold(sys.argv[1])
