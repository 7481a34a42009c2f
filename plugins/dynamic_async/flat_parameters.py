"""A module's trainable parameters as one vector, the state of a shard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array


class FlatParameters:
    """Reads and writes the parameters that require a gradient, in the module's order.

    Args:
        module: at the start, with what is to be trained switched on.

    Raises:
        ValueError: nothing trains, parameters of several types, or of one that is no float32 or float64.

    Example:
        >>> flat = FlatParameters(nn.Linear(2, 1))
        >>> flat.write(np.array([1, 2, 3], dtype=np.float32))
        >>> flat.read(), flat.names
        (array([1., 2., 3.], dtype=float32), ('weight', 'bias'))
    """

    def __init__(self, module: nn.Module) -> None:
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        types = {weight.dtype for weight in trained.values()}
        if not trained:
            raise ValueError("got a module without parameters that require a gradient; expected something to train")
        if len(types) != 1 or not types <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
            raise ValueError(
                f"got trained parameters of type {found}; peers exchange one vector of float32 or float64: take "
                "precision 32-true, 64-true, or a mixed one"
            )
        self.names = tuple(trained)
        self._weights = tuple(trained.values())
        self.size = sum(weight.numel() for weight in self._weights)

    def identity(self) -> str:
        """Names and shapes, one a line."""
        return "\n".join(f"{n} {tuple(w.shape)}" for n, w in zip(self.names, self._weights, strict=True))

    def read(self) -> Array:
        """(d,) a copy."""
        return torch.cat([weight.detach().flatten().cpu() for weight in self._weights]).numpy()

    def write(self, vector: Array) -> None:
        """Put a vector's numbers into the parameters."""
        with torch.no_grad():
            for weight, part in zip(self._weights, self._parts(vector), strict=True):
                weight.copy_(part)

    def gradient(self) -> NDArray[np.float64]:
        """(d,) the gradients that lie in the parameters, zeros where there is none."""
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights]
        return torch.cat([part.detach().flatten().double().cpu() for part in parts]).numpy()

    def add_to_gradient(self, vector: Array) -> None:
        """Add a vector to the gradients."""
        for weight, part in zip(self._weights, self._parts(vector), strict=True):
            moved = part.to(weight.device, weight.dtype)
            if weight.grad is None:
                weight.grad = moved.clone()
            else:
                weight.grad += moved

    def entries(self, vector: Array) -> Mapping[str, Tensor]:
        """A vector as tensors by the parameters' names."""
        parts = self._parts(vector)
        return {n: part.to(w.device) for n, w, part in zip(self.names, self._weights, parts, strict=True)}

    def _parts(self, vector: Array) -> list[Tensor]:
        whole = torch.from_numpy(np.array(vector))
        sizes = [weight.numel() for weight in self._weights]
        return [part.view(w.shape) for part, w in zip(whole.split(sizes), self._weights, strict=True)]
