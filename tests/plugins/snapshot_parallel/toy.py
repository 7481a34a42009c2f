"""A small dynamic network, its LightningModule and its timelines, and a Trainer among ranks that are there already."""

import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.strategy import SnapshotParallelStrategy


class ToyNetwork(nn.Module):
    """One layer: neighbours and features mixed within a snapshot, a leaky memory along every vertex's time."""

    def __init__(self, coupling="recurrent", hidden=4):
        super().__init__()
        self.coupling = coupling
        self.spatial = nn.Linear(2, hidden)
        self.leak = nn.Parameter(torch.tensor(0.3))
        self.mix = nn.Linear(hidden, hidden)

    def initial_carry(self, block):
        start, stop = block.split.vertices[block.rank]
        return (torch.zeros(stop - start, self.mix.out_features, dtype=self.leak.dtype),)

    def forward(self, block, carry):
        x = torch.tanh(self.spatial(block.features.to(self.leak.dtype)))
        x = block.exchange.to_vertices(x, block.split)
        (state,) = carry
        states = []
        for frame in x:
            state = self.leak * state + self.mix(frame)
            states.append(state)
        x = torch.stack(states) if states else x
        return block.exchange.to_snapshots(x, block.split), (state,)


class ToyModule(LightningModule):
    """Classes of vertices; a rank's loss is its share of the loss of all ranks."""

    def __init__(self, coupling="recurrent", manual=0, optimizer="sgd", mean_loss=False):
        super().__init__()
        torch.manual_seed(3)
        self.network = ToyNetwork(coupling).double()
        self.head = nn.Linear(4, 3, dtype=torch.float64)
        self.unused = nn.Linear(2, 2, dtype=torch.float64)
        self.automatic_optimization = not manual
        self.manual = manual
        self.optimizer = optimizer
        self.mean_loss = mean_loss
        self.losses = []
        self.kinds = []

    @property
    def coupling(self):
        return self.network.coupling

    def loss(self, batch):
        self.kinds.append(type(batch).__name__)
        shard = batch if isinstance(batch, Shard) else Shard.whole(batch)
        embeddings = shard.run(self.network)
        targets = shard.targets
        logits = self.head(embeddings[targets.step, targets.index[0]])
        total = nn.functional.cross_entropy(logits, targets.label, reduction="sum")
        count = shard.exchange.sum(torch.tensor(float(len(targets.label)), dtype=torch.float64))
        value = total / count + shard.anchor(embeddings)
        return value, shard.exchange.sum(value)

    def training_step(self, batch, batch_idx):
        loss, value = self.loss(batch)
        self.losses.append(float(value))
        if self.manual:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            for part in range(self.manual):
                self.manual_backward((part + 1) * loss, retain_graph=True)
            optimizer.step()
            return None
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch)[1], batch_size=1, sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch)[1], batch_size=1, sync_dist=True)

    def predict_step(self, batch, batch_idx):
        return self.loss(batch)[1]

    def configure_optimizers(self):
        if self.optimizer == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1)


def timeline(seed=0, snapshots=7, nodes=10, late=True):
    """Random events and features; all targets in the last third, so that early ranks have no loss terms."""
    draw = torch.Generator().manual_seed(seed)
    events = 12 * snapshots
    source, target = torch.randint(nodes, (2, events), generator=draw).numpy()
    step = torch.randint(snapshots, (events,), generator=draw).numpy()
    count = 9
    first = 2 * snapshots // 3 if late else 0
    return Timeline.from_events(
        source,
        target,
        step,
        num_nodes=nodes,
        num_snapshots=snapshots,
        features=torch.randn(snapshots, nodes, 2, generator=draw, dtype=torch.float64),
        target_index=torch.randint(nodes, (count,), generator=draw).numpy(),
        target_label=torch.randint(3, (count,), generator=draw).numpy(),
        target_time=torch.randint(first, snapshots, (count,), generator=draw).numpy(),
        window=2,
        name=f"toy{seed}-{snapshots}-{late}",
    )


def loader(*timelines, **options):
    return DataLoader(list(timelines), batch_size=None, **options)


class Ranks(ClusterEnvironment):
    """The ranks of a process group that is there already."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 1

    @staticmethod
    def detect():
        return False

    def world_size(self):
        return dist.get_world_size()

    def set_world_size(self, size):
        pass

    def global_rank(self):
        return dist.get_rank()

    def set_global_rank(self, rank):
        pass

    def local_rank(self):
        return dist.get_rank()

    def node_rank(self):
        return 0


def make_trainer(*, trainer=None, strategy_class=SnapshotParallelStrategy, **options):
    """A Trainer on all ranks of the process group."""
    return Trainer(
        accelerator="cpu",
        devices=dist.get_world_size(),
        strategy=strategy_class(cluster_environment=Ranks(), **options),
        **{
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 3,
            **(trainer or {}),
        },
    )


# Compiled loops are loaded once here, not again in every rank that is forked from here.
Shard.whole(timeline()).blocks[0].graphs  # noqa: B018
