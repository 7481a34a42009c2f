"""Any number of ranks and blocks trains as one process does: losses, gradients and SGD's parameters, model by model."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fulgurite.data.temporal_graph import TemporalGraph
from fulgurite.data.timeline import Timeline
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.models.dynamic_gnn import (
    CDGCN,
    TGCN,
    TMGCN,
    WDGCN,
    DynamicLinkPredictor,
    DynamicNetwork,
    DynamicNodeClassifier,
    EvolveGCNH,
    EvolveGCNO,
)
from fulgurite.models.dynamic_gnn.task import DynamicTask
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.gradients import SummedGradients
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

WINDOW, FEATURES, STEPS, TOLERANCE = 4, 2, 3, 1e-12
NETWORKS = {
    "CDGCN": lambda: CDGCN(FEATURES),
    "WDGCN": lambda: WDGCN(FEATURES, (5, 3)),
    "TGCN": lambda: TGCN(FEATURES),
    "TMGCN": lambda: TMGCN(FEATURES, window=WINDOW),
    "EvolveGCNO": lambda: EvolveGCNO(FEATURES),
    "EvolveGCNH": lambda: EvolveGCNH(FEATURES),
}
CUTS = [(1, "none", "auto"), (2, "save", "auto"), (3, "resend", "auto"), (5, "save", "auto")]
TM_CUTS = [(blocks, mode, halo) for blocks, mode, _ in CUTS for halo in ("always", "never")]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def timeline(name: str, task: str) -> Timeline:
    """Thirteen snapshots of generated transactions over a number of accounts that no P divides."""
    graph = TransactionGraph(num_nodes=47, num_steps=15, events_per_step=40, seed=3)
    m_window = WINDOW if name == "TMGCN" else 1
    data = TemporalGraph(
        generator=graph,
        task=task,
        edge_life=3,
        m_window=m_window,
        symmetrise=name == "WDGCN",
        val_steps=2,
        test_steps=0,
    )
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def module(name: str, task: str) -> DynamicTask:
    torch.manual_seed(1)
    kind = DynamicLinkPredictor if task == "link" else DynamicNodeClassifier
    return kind(NETWORKS[name](), optimizer="sgd", learning_rate=0.5, momentum=0.9)


def train(name: str, task: str, batch: Timeline, cut: tuple[int, str, str], *, mean: bool = False) -> dict:
    """A few steps of SGD on this rank's shard; what one process would say of each."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    blocks, collectives, halo = cut
    exchange = GroupExchange(halo_mode=halo) if ranks > 1 else Exchange()
    costs = np.arange(batch.num_snapshots, 0, -1) ** 2
    shard = Shard.build(
        batch,
        partition(costs, batch.num_nodes, ranks, blocks),
        exchange,
        source=Resident(batch),
        collectives=collectives,
    )
    task_module = module(name, task)
    said: list[float] = []
    task_module.log = lambda key, value, **_: said.append(float(value))
    task_module.trainer = _Trainer()
    optimizer = task_module.configure_optimizers()
    group = torch.distributed.group.WORLD if ranks > 1 else None
    summed = SummedGradients(task_module, group=group, keeps=exchange.rank == 0, replicas=ranks if mean else 1)
    gradients = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with summed.around_backward():
            task_module.training_step(shard, 0).backward()
        gradients.append(flat(p.grad if p.grad is not None else torch.zeros_like(p) for p in task_module.parameters()))
        optimizer.step()
    return {
        "losses": torch.tensor(said),
        "gradients": torch.stack(gradients),
        "parameters": flat(p.detach() for p in task_module.parameters()),
    }


class _Trainer:
    world_size, current_epoch = 1, 0


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def furthest(got: dict, expected: dict) -> float:
    return max(float((got[key] - expected[key]).abs().max()) for key in expected)


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_that_of_one_process(run_ranks, name, ranks):
    task = "node" if name in ("WDGCN", "EvolveGCNO") else "link"
    batch = timeline(name, task)
    expected = train(name, task, batch, (1, "none", "auto"))
    assert expected["losses"].unique().numel() == STEPS, "nothing was learnt, so nothing is compared"
    assert expected["gradients"].abs().amax(dim=1).min() > 1e-3
    cuts = TM_CUTS if name == "TMGCN" else CUTS

    def on_rank() -> list[dict]:
        return [train(name, task, batch, cut) for cut in cuts]

    for results in run_ranks(on_rank, ranks):
        for cut, got in zip(cuts, results, strict=True):
            assert furthest(got, expected) <= TOLERANCE, f"blocks, collectives, halo = {cut}"


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["CDGCN", "EvolveGCNH"])
def test_the_mean_of_gradients_instead_of_their_sum_is_seen(run_ranks, name):
    batch = timeline(name, "link")
    expected = train(name, "link", batch, (1, "none", "auto"))
    got = run_ranks(lambda: train(name, "link", batch, (1, "none", "auto"), mean=True), 3)[0]
    assert float((got["losses"][0] - expected["losses"][0]).abs()) <= TOLERANCE
    for key in expected:
        assert float((got[key] - expected[key]).abs().max()) > 1e-5, key


@pytest.mark.distributed
def test_more_ranks_than_snapshots(run_ranks):
    batch = timeline("CDGCN", "link").slice_time(0, 3)
    expected = train("CDGCN", "link", batch, (1, "none", "auto"))

    def on_rank() -> list[dict]:
        return [train("CDGCN", "link", batch, cut) for cut in ((1, "none", "auto"), (2, "resend", "auto"))]

    for results in run_ranks(on_rank, 4):
        assert max(furthest(got, expected) for got in results) <= TOLERANCE


def test_a_network_is_a_network() -> None:
    """What the list above names is what there is, but for the one that cannot be cut."""
    stacks = {kind.__name__ for kind in DynamicNetwork.__subclasses__()}
    assert stacks - set(NETWORKS) == {"GConvGRU", "NoGraph", "StaticGCN"}
