"""Long-range graphs: chains and trees of nodes whose class is told at the root alone."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

Split = Literal["train", "val", "test"]


class NodeGraph(NamedTuple):
    """One graph as a batch.

    Attributes:
        features: (N, F) float32.
        edge_index: (2, E) int64, sources and targets.
        labels: (N,) int64.
        mask: (N,) bool, the nodes that are scored in this part.
    """

    features: Tensor
    edge_index: Tensor
    labels: Tensor
    mask: Tensor


class GraphChains(L.LightningDataModule):
    r"""Nodes to be classified by what stands at the far end of their chain; generated, from a seed.

    The chains of Gu et al., *Implicit Graph Neural Networks*, NeurIPS 2020,
    `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__: all nodes of a chain are of one class, which only the
    features of its first node show, and edges run down the chain. A network that looks k hops far cannot tell anything
    about a node that is further down. With ``reach`` above 1 chains become trees: a node hangs below one of the
    ``reach`` before it, so that depths differ; many and long ones make a large graph.

    A batch is the whole graph as a :class:`NodeGraph`; parts hold whole chains, so that what is learnt must hold for
    chains never seen. Nodes are numbered by their place, then by chain: a block of consecutive nodes is a piece of
    every chain, and whoever cuts the graph into blocks cuts every chain.

    Args:
        num_classes: C.
        num_chains: how many, in equal shares of each class but for one.
        length: nodes of a chain.
        reach: see above; 1 for chains.
        num_features: F, at least C; the root's is 1 at its class, and noise.
        noise: standard deviation, of the root's features.
        train_share: share of the chains to train on.
        val_share: to validate on; the rest is for the test.
        seed: of all that is random.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> data = GraphChains(num_chains=10, length=5)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.features.shape, batch.edge_index.shape, int(batch.mask.sum())
        (torch.Size([50, 4]), torch.Size([2, 40]), 20)
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        num_chains: int = 60,
        length: int = 20,
        reach: int = 1,
        num_features: int = 4,
        noise: float = 0.1,
        train_share: float = 0.4,
        val_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_classes", num_classes, 2),
            ("length", length, 1),
            ("reach", reach, 1),
            ("num_features", num_features, num_classes),
            ("num_chains", num_chains, 3),
        ):
            if value < least:
                raise ValueError(f"got {name}={value}; expected {least} or more")
        if not (noise >= 0 and train_share > 0 and val_share > 0 and train_share + val_share < 1):
            raise ValueError(
                f"got noise={noise}, train_share={train_share}, val_share={val_share}; expected noise of 0 or more, "
                "and shares above 0 that add up to less than 1"
            )
        self.num_classes = num_classes
        self.num_chains = num_chains
        self.length = length
        self.reach = reach
        self.num_features = num_features
        self.noise = noise
        self.train_share = train_share
        self.val_share = val_share
        self.seed = seed
        self._graphs: dict[Split, NodeGraph] = {}

    @override
    def setup(self, stage: str | None = None) -> None:
        """Generate the graph, on the first call; further calls do nothing."""
        if self._graphs:
            return
        random = np.random.default_rng(self.seed)
        chain, place = np.arange(self.num_chains), np.arange(self.length)
        label = random.permutation(chain % self.num_classes)
        features = np.zeros((self.length, self.num_chains, self.num_features), dtype=np.float32)
        features[0, chain, label] = 1
        features[0] += self.noise * random.standard_normal(features[0].shape)
        back = random.integers(1, self.reach + 1, size=(self.length, self.num_chains))
        parent = np.maximum(place[:, None] - back, 0)
        edges = np.stack([parent * self.num_chains + chain, place[:, None] * self.num_chains + chain])[:, 1:]
        order = random.permutation(self.num_chains)
        begin = min(max(1, round(self.train_share * self.num_chains)), self.num_chains - 2)
        end = min(max(begin + 1, round((self.train_share + self.val_share) * self.num_chains)), self.num_chains - 1)
        parts: dict[Split, Any] = {"train": order[:begin], "val": order[begin:end], "test": order[end:]}
        for split, chosen in parts.items():
            self._graphs[split] = NodeGraph(
                torch.from_numpy(features.reshape(-1, self.num_features)),
                torch.from_numpy(edges.reshape(2, -1)),
                torch.from_numpy(np.tile(label, self.length)),
                torch.from_numpy(np.tile(np.isin(chain, chosen), self.length)),
            )

    def part(self, split: Split) -> NodeGraph:
        """The graph, with the nodes of a part to be scored.

        Raises:
            ValueError: there is no such part.
        """
        if split not in get_args(Split):
            raise ValueError(f"got part {split!r}; choose from train, val, test")
        self.setup()
        return self._graphs[split]

    @override
    def train_dataloader(self) -> DataLoader[NodeGraph]:
        return _loader(self.part("train"))

    @override
    def val_dataloader(self) -> DataLoader[NodeGraph]:
        return _loader(self.part("val"))

    @override
    def test_dataloader(self) -> DataLoader[NodeGraph]:
        return _loader(self.part("test"))

    @override
    def predict_dataloader(self) -> DataLoader[NodeGraph]:
        return _loader(self.part("test"))


def _loader(graph: NodeGraph) -> DataLoader[NodeGraph]:
    dataset: Any = [graph]
    return DataLoader(dataset, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(graph: Any) -> Any:
    return graph
