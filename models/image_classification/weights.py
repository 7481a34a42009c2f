"""Weights for a named network: found, read, and fitted to other classes and channels than they were trained for."""

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fulgurite.plugins.registry import nearest


def find_weights(weights: str | None, *, backbone: str, names: Iterable[str]) -> Path | None:
    """Tell a file of weights from a published set's name.

    Args:
        weights: as in :func:`~fulgurite.models.image_classification.network.build_network`.
        backbone: for the message.
        names: published sets of the network.

    Returns:
        The file, or ``None`` where there is a name, or nothing, instead.

    Raises:
        ValueError: neither a file nor one of the names.

    Example:
        >>> find_weights("DEFAULT", backbone="resnet18", names=["DEFAULT"])
    """
    names = tuple(names)
    if weights is None or weights in names:
        return None
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    either = f", nor such a published set{nearest(weights, names)}" if names else ""
    raise ValueError(f"got weights={weights!r} for {backbone}; there is no such file{either}")


@contextmanager
def downloading(weights: str, *, backbone: str) -> Iterator[None]:
    """Say in one line that published weights cannot be had.

    Raises:
        ValueError: what is inside raised an error of the network, the disk, or of a file with another hash.

    Example:
        >>> with downloading("DEFAULT", backbone="resnet18"):
        ...     raise OSError("no route to host")
        Traceback (most recent call last):
        ValueError: the weights DEFAULT of resnet18 cannot be had (no route to host); give the path of a file with them
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights {weights} of {backbone} cannot be had ({error}); give the path of a file with them"
        ) from error


def adapt_head(network: nn.Module, num_classes: int) -> None:
    """Put a fresh last layer of the wanted width in the place of a network's own, where the widths differ.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1000))
        >>> adapt_head(network, 3)
        >>> network[1]
        Linear(in_features=4, out_features=3, bias=True)
    """
    name, layer = _head(network)
    if isinstance(layer, nn.Linear) and layer.out_features != num_classes:
        _replace(network, name, nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None))
    elif isinstance(layer, nn.Conv2d) and layer.out_channels != num_classes:
        _replace(network, name, _convolution(layer, layer.in_channels, num_classes))


def adapt_stem(network: nn.Module, in_channels: int, *, keep: bool) -> None:
    """Put a first convolution for other channels in the place of a network's own, where they differ.

    Args:
        network: the network.
        in_channels: of the images.
        keep: whether the filters are worth keeping: each becomes its average over the old channels, times their
            number over the new one's; otherwise they start at random.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> grey = torch.rand(1, 1, 5, 5)
        >>> wanted = network(grey.expand(1, 3, 5, 5))
        >>> adapt_stem(network, 1, keep=True)
        >>> torch.allclose(network(grey), wanted, atol=1e-6)
        True
    """
    name, layer = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    if layer.in_channels == in_channels:
        return
    fresh = _convolution(layer, in_channels, layer.out_channels)
    if keep:
        with torch.no_grad():
            fresh.weight.copy_(layer.weight.mean(dim=1, keepdim=True) * layer.in_channels / in_channels)
            if fresh.bias is not None and layer.bias is not None:
                fresh.bias.copy_(layer.bias)
    _replace(network, name, fresh)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights into a network; a last layer of another width starts anew.

    Args:
        network: the network.
        path: what ``torch.save(network.state_dict(), path)`` wrote, or a checkpoint of a LightningModule that has such
            a network as an attribute. It is read with ``weights_only``: no code in it is run.

    Raises:
        ValueError: a file that holds no weights, or those of another network.

    Example:
        >>> import tempfile
        >>> first, second = (nn.Sequential(nn.Linear(4, 3)) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(first.state_dict(), f"{folder}/first.pt")
        ...     load_weights(second, Path(folder, "first.pt"))
        >>> torch.equal(first[0].weight, second[0].weight)
        True
    """
    wanted = network.state_dict()
    found = read_weights(path, wanted)
    head = _head(network)[0]
    anew = [key for key in (f"{head}.weight", f"{head}.bias") if key in found and key in wanted]
    anew = [
        key for key in anew if found[key].shape[1:] == wanted[key].shape[1:] and len(found[key]) != len(wanted[key])
    ]
    put_weights(network, found, path, anew=anew)
    if anew:
        classes, mine = len(found[anew[0]]), len(wanted[anew[0]])
        rank_zero_info(f"{path}: is for {classes} classes, the network for {mine}: its last layer {head} starts anew")


def read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a file of weights for a network, under the network's own names.

    Args:
        path: as for :func:`load_weights`.
        wanted: the network's state; by its first name a checkpoint's prefix is found.

    Raises:
        ValueError: a file that holds no weights.
    """
    return _without_prefix(_read(path), wanted)


def put_weights(network: nn.Module, found: Mapping[str, Tensor], path: Path, *, anew: Sequence[str] = ()) -> None:
    """Put the weights of a file into a network.

    Args:
        network: the network.
        found: of :func:`read_weights`.
        path: for the message.
        anew: names whose weights stay as they are in the network.

    Raises:
        ValueError: weights of another network.
    """
    wanted = network.state_dict()
    if faults := _differences(found, wanted, anew):
        raise ValueError(f"{path}: holds weights of another network: {faults}; name the backbone they are of")
    network.load_state_dict({key: wanted[key] if key in anew else found[key] for key in wanted})


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], anew: Sequence[str]) -> str:
    both = [key for key in wanted if key in found and key not in anew]
    faults = {
        "without": [key for key in wanted if key not in found],
        "with another shape of": [
            f"{key}, {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
            for key in both
            if found[key].shape != wanted[key].shape
        ],
        "with an unknown": [key for key in found if key not in wanted],
    }
    return "; ".join(
        f"{what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        for what, keys in faults.items()
        if keys
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path}: cannot be read as a file of weights: {reason[0] if reason else type(error).__name__}"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ValueError(
            f"{path}: holds no weights; want what torch.save(network.state_dict(), path) writes, or a checkpoint"
        )
    return dict(content)


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the network, by its own names: a LightningModule's checkpoint says ``network.`` before each."""
    first = next(iter(wanted))
    bearers = [key for key in state if key == first or key.endswith(f".{first}")]
    prefix = min(bearers, key=len).removesuffix(first) if bearers else ""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _head(network: nn.Module) -> tuple[str, nn.Module]:
    """The last layer that has weights for each class: a linear one, or, in SqueezeNet, a convolution."""
    return [item for item in network.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d)][-1]


def _convolution(like: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        bias=like.bias is not None,
        padding_mode=like.padding_mode,
    )


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, layer)
