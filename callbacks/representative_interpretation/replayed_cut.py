"""A classifier cut in two without looking into it: a module's output is captured, and replaced by another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.linearity import Operators


@dataclass(frozen=True)
class Output:
    """What a module gave in a run.

    Args:
        name: its path in the user's network.
        shape: of its output; ``None`` if that is no tensor.
        mixing: convolutions and matrix products up to it.
        idle: it passes on what it is given.
    """

    name: str
    shape: tuple[int, ...] | None
    mixing: int
    idle: bool


def is_idle(module: nn.Module) -> bool:
    """Whether a module in evaluation mode passes on what it is given."""
    return isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)


def outputs(root: nn.Module, images: Tensor) -> list[Output]:
    """What each module below ``root.model`` gives, in the order in which they end; a module may be there repeatedly.

    Args:
        root: from images to logits, with the user's network as its child ``model``.
        images: (B, …).

    Example:
        >>> class Root(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
        ...     def forward(self, images):
        ...         return self.model(images)
        >>> [(output.name, output.shape) for output in outputs(Root(), torch.zeros(2, 1, 5, 5))]
        [('0', (2, 4, 3, 3)), ('1', (2, 36))]
    """
    found: list[Output] = []
    handles = []
    with torch.no_grad(), Operators() as operators:

        def note(name: str, module: nn.Module) -> Callable[..., None]:
            idle = is_idle(module)

            def hook(_: nn.Module, __: Any, output: Any) -> None:
                shape = tuple(output.shape) if isinstance(output, Tensor) else None
                found.append(Output(name, shape, operators.mixing, idle))

            return hook

        try:
            for path, module in root.named_modules():
                if path.startswith("model."):
                    name = path.removeprefix("model.")
                    handles.append(module.register_forward_hook(note(name, module)))
            root(images.clone())  # the network may write into what it is given
        finally:
            for handle in handles:
                handle.remove()
    return found


class Replay(nn.Module):
    """The part of a classifier behind one module's output: the whole runs on an image, and there α takes over.

    Args:
        root: from images to logits, with the user's network as its child ``model``.
        name: path of the module in the user's network.
        carrier: (1, …) the image that everything before the cut runs on.
        alone: the part before the cut runs on the one image, whatever the number of maps; otherwise on as many copies.
    """

    carrier: Tensor

    def __init__(self, root: nn.Module, name: str, carrier: Tensor, *, alone: bool) -> None:
        super().__init__()
        self.root = root
        self.register_buffer("carrier", carrier, persistent=False)
        self.alone = alone
        self._name = name

    def forward(self, features: Tensor) -> Any:
        """Logits of feature maps (B, K, H, W)."""
        images = self.carrier if self.alone else self.carrier.expand(len(features), *self.carrier.shape[1:])
        images = images.clone()  # the network may write into what it is given
        runs: list[None] = []

        def replace(_: nn.Module, __: Any, output: Any) -> Tensor:
            runs.append(None)
            return features

        with _hooked(self.root, self._name, replace):
            logits = self.root(images)
        assert len(runs) == 1, f"{self._name!r} ran {len(runs)} times"
        return logits


class Capture(nn.Module):
    """The part of a classifier before and at one module's output.

    Args:
        root: from images to logits, with the user's network as its child ``model``.
        name: path of the module in the user's network.
    """

    def __init__(self, root: nn.Module, name: str) -> None:
        super().__init__()
        self.root = root
        self._name = name

    def forward(self, images: Tensor) -> tuple[list[Any], Any]:
        """The module's outputs, one a run and copies of their own, and the logits."""
        captured: list[Any] = []

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            captured.append(output.clone() if isinstance(output, Tensor) else output)

        with _hooked(self.root, self._name, keep):
            logits = self.root(images)
        return captured, logits


@contextmanager
def _hooked(root: nn.Module, name: str, hook: Callable[..., Any]) -> Iterator[None]:
    handle = root.get_submodule(f"model.{name}").register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
