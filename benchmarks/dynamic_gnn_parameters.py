"""Our parameters under the names of the peer's cells, and where their formulas are not ours: for dynamic_gnn.py."""

from __future__ import annotations

from torch import Tensor, nn

# What the peer computes, and how it differs; an empty string: nothing, outputs have to agree.
FORMULAS = {
    "TGCN": ("PyGT `TGCN`", ""),
    "GConvGRU": ("PyGT `GConvGRU`", "its Laplacian is of the graph without self-loops"),
    "EvolveGCNO": (
        "PyGT `EvolveGCNO`",
        "its GRU runs over the rows of W, the paper's and ours over the columns; no relu (ours here with `cell=gru`)",
    ),
    "EvolveGCNH": (
        "PyGT `EvolveGCNH`",
        "its GRU runs over rows; it scales the chosen vertices by tanh of their score; no relu",
    ),
    "WDGCN": ("PyG `GCNConv` and `nn.LSTM`", ""),
}


def as_peer(model: str, network: nn.Module) -> dict[str, Tensor] | None:
    """The state of the peer's module for a network of one layer; None where the formula is another."""
    if FORMULAS[model][1]:
        return None
    ours = {name.removeprefix("layers.0."): tensor for name, tensor in network.state_dict().items()}
    if model == "WDGCN":
        weight = ours.pop("convolution.weight")
        return ours | {"convolution.lin.weight": weight}
    weights, biases = (ours[f"convolution.{kind}"].chunk(3) for kind in ("weight", "bias"))
    state = {}
    for number, gate in enumerate("zrh"):
        state[f"cell.conv_{gate}.lin.weight"] = weights[number].clone()
        state[f"cell.conv_{gate}.bias"] = biases[number].clone()
        for kind in ("weight", "bias"):
            state[f"cell.linear_{gate}.{kind}"] = ours[f"linear.{number}.{kind}"]
    return state
