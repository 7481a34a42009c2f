"""PyTorch Geometric Temporal's cells on the benchmark's timeline: run by an interpreter that has them.

``benchmarks/dynamic_gnn.py --peer-python`` starts it and asks for one epoch at a time, so that both take turns; it
needs torch, torch-geometric and torch-geometric-temporal and nothing of ours (docs/dynamic_gnn.md says how to make that
environment). Questions are lines on standard input, answers are lines on standard output.

    epoch MODEL           seconds of one epoch: forward over the timeline, backward, a step of SGD
    forward MODEL PATH    embeddings of every snapshot, written to PATH
    what                  versions, and what is stood in for
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
import types
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning)

Snapshot = tuple[Tensor, Tensor, Tensor]  # features (N, F), edge_index (2, E), edge_weight (E,)


def import_peers() -> tuple[types.ModuleType, types.ModuleType, str]:
    """PyG, PyG Temporal's recurrent cells, and what stands in for what is missing.

    PyG Temporal imports torch_sparse for a single name in two annotations. Where that extension is not there (it has to
    be compiled for each torch), PyG's own stand-in for the name serves; nothing that is measured calls it.
    """
    import torch_geometric
    from torch_geometric import typing as pyg_typing

    if not pyg_typing.WITH_TORCH_SPARSE and "torch_sparse" not in sys.modules:
        sparse = types.ModuleType("torch_sparse")
        sparse.SparseTensor = pyg_typing.SparseTensor
        sys.modules["torch_sparse"] = sparse
    from torch_geometric_temporal.nn import recurrent

    stands_in = (
        "" if pyg_typing.WITH_TORCH_SPARSE else "; without torch-sparse, of which a name in an annotation is used"
    )
    return torch_geometric, recurrent, stands_in


class Stepwise(nn.Module):
    """A cell of PyG Temporal over the snapshots, as its examples do: one after the other, the state handed on."""

    def __init__(self, cell: nn.Module, *, state: bool) -> None:
        super().__init__()
        self.cell, self.state = cell, state

    def forward(self, snapshots: list[Snapshot]) -> list[Tensor]:
        """Embeddings of every snapshot."""
        hidden, found = None, []
        if hasattr(self.cell, "reinitialize_weight"):
            self.cell.reinitialize_weight()  # its weights are module state and would tie epochs together
        for x, edges, weight in snapshots:
            hidden = self.cell(x, edges, weight, hidden) if self.state else self.cell(x, edges, weight)
            found.append(hidden)
        return found


class ConvolutionsThenLSTM(nn.Module):
    """WD-GCN's layer of PyG's and torch's parts: GCNConv in every snapshot, nn.LSTM along every vertex's timeline."""

    def __init__(self, in_channels: int, hidden: int) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.convolution = GCNConv(in_channels, hidden, bias=False)
        self.recurrence = nn.LSTM(hidden, hidden)

    def forward(self, snapshots: list[Snapshot]) -> list[Tensor]:
        """Embeddings of every snapshot."""
        found = torch.stack([self.convolution(x, edges, weight).relu() for x, edges, weight in snapshots])
        return list(self.recurrence(found)[0].unbind())


def make(model: str, channels: int, hidden: int, num_nodes: int, order: int) -> nn.Module:
    """The peer of one of our models; where a cell is square, ``channels`` and ``hidden`` are equal."""
    _, recurrent, _ = import_peers()
    if model == "TGCN":
        return Stepwise(recurrent.TGCN(channels, hidden), state=True)
    if model == "GConvGRU":
        return Stepwise(recurrent.GConvGRU(channels, hidden, K=order), state=True)
    if model == "EvolveGCNO":
        return Stepwise(recurrent.EvolveGCNO(channels), state=False)
    if model == "EvolveGCNH":
        return Stepwise(recurrent.EvolveGCNH(num_nodes, channels), state=False)
    if model == "WDGCN":
        return ConvolutionsThenLSTM(channels, hidden)
    raise ValueError(f"got the model {model!r}; expected TGCN, GConvGRU, EvolveGCNO, EvolveGCNH or WDGCN")


def epoch(network: nn.Module, optimizer: torch.optim.Optimizer, snapshots: list[Snapshot]) -> float:
    """One epoch; the loss is the mean square of all embeddings."""
    optimizer.zero_grad(set_to_none=True)
    loss = torch.stack([hidden.square().mean() for hidden in network(snapshots)]).mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def serve(path: str) -> None:
    """Answer questions about the timeline in a file until standard input ends."""
    case = torch.load(path, weights_only=True)
    torch.set_num_threads(case["threads"])
    snapshots = list(zip(case["features"].unbind(), case["edge_index"], case["edge_weight"], strict=True))
    num_nodes = snapshots[0][0].shape[0]
    networks: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}

    def network(model: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        if model not in networks:
            made = make(model, case["channels"], case["hidden"], num_nodes, case["order"])
            if model in case["parameters"]:
                made.load_state_dict(case["parameters"][model])
            networks[model] = made, torch.optim.SGD(made.parameters(), lr=1e-3)
        return networks[model]

    def take_epoch(model: str) -> str:
        made, optimizer = network(model)
        begin = time.perf_counter()
        epoch(made, optimizer, snapshots)
        return repr(time.perf_counter() - begin)

    def write_forward(model: str, target: str) -> str:
        with torch.no_grad():
            torch.save(torch.stack(network(model)[0](snapshots)), target)
        return "written"

    def say_what() -> str:
        pyg, _, stands_in = import_peers()
        temporal = importlib.metadata.version("torch-geometric-temporal")
        versions = f"torch {torch.__version__}, torch-geometric {pyg.__version__}, torch-geometric-temporal {temporal}"
        return versions + stands_in

    answers: dict[str, Callable[..., str]] = {"epoch": take_epoch, "forward": write_forward, "what": say_what}
    for line in sys.stdin:
        question, *words = line.split()
        try:
            answer = answers[question](*words)
        except Exception as error:  # told to whoever asked; other cells go on
            answer = f"error {type(error).__name__}: {error}".replace("\n", " ")
        print(answer, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
