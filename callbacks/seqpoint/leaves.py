"""The tensors of a batch, whatever holds them: dicts, tuples, lists, dataclasses, packed and nested sequences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Leaf = Tensor | np.ndarray | PackedSequence | list[Any]

_DEEPEST = 5  # a batch nested deeper than this is not a batch; keeps objects that hold each other from looping
_MANY = 8  # a list of more tensors of one kind than this is one sequence of samples, not so many inputs
_CHANNELS = 4  # an uncollated image has at most this many


def find_leaves(batch: Any, ragged: dict[str, bool] | None = None) -> dict[str, Leaf]:
    """All tensors of a batch by their path, in the order in which the batch holds them.

    Mappings (Hugging Face's ``BatchEncoding`` too), tuples, lists, dataclasses and plain objects are walked. A list of
    samples that were not collated into one tensor (images of different sizes, sequences of different lengths, one dict
    a sample) is one *ragged* leaf, a plain list of tensors.

    Args:
        batch: what a data loader yields.
        ragged: what was decided about each list so far; filled in, and obeyed when handed in again, so that a batch of
            another size is read like the first one.

    Returns:
        Path to leaf; scalars, strings and numbers are left out.

    Example:
        >>> batch = {"source": torch.zeros(4, 7), "extra": (torch.zeros(4), "text")}
        >>> {path: sizes_of(leaf) for path, leaf in find_leaves(batch).items()}
        {'source': (4, 7), 'extra.0': (4,)}
    """
    leaves: dict[str, Leaf] = {}
    _walk(batch, "", {} if ragged is None else ragged, leaves, 0)
    return leaves


def sizes_of(leaf: Leaf) -> tuple[int, ...]:
    """The sizes of a leaf, read on the host alone: no tensor's values are looked at on a device.

    ======================  =====================================================================
    tensor, array           its shape
    ragged list             number of tensors, then the largest size of each of their dimensions
    packed sequence         batch, longest sequence, tokens
    nested tensor           batch, longest sequence where that is known without waiting, tokens
    ======================  =====================================================================

    Example:
        >>> sizes_of([torch.zeros(3, 20, 30), torch.zeros(3, 25, 10)])
        (2, 3, 25, 30)
    """
    if isinstance(leaf, PackedSequence):
        return (int(leaf.batch_sizes[0]), len(leaf.batch_sizes), leaf.data.shape[0])
    if isinstance(leaf, list):
        shapes = [tensor.shape for tensor in leaf]
        return (len(leaf), *(max(dim) for dim in zip(*shapes, strict=False)))
    if isinstance(leaf, Tensor) and leaf.is_nested:
        return _nested_sizes(leaf)
    return tuple(leaf.shape)


def tokens_of(leaf: Leaf) -> int | None:
    """Tokens of a leaf that holds no padding (packed, nested), ``None`` for all others.

    Example:
        >>> tokens_of(torch.nn.utils.rnn.pack_sequence([torch.zeros(3), torch.zeros(2)]))
        5
    """
    if isinstance(leaf, PackedSequence) or (isinstance(leaf, Tensor) and leaf.is_nested):
        return sizes_of(leaf)[-1]
    return None


def _walk(value: Any, path: str, ragged: dict[str, bool], leaves: dict[str, Leaf], depth: int) -> None:
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim:
            leaves[path] = value
        return
    if isinstance(value, PackedSequence):
        leaves[path] = value
        return
    if value is None or isinstance(value, str | bytes | int | float | type) or depth == _DEEPEST:
        return
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        if not value or isinstance(value[0], str | bytes | int | float):
            return
        if _samples(value, path, ragged, leaves):
            return
        items = enumerate(value)
    else:
        # vars() of a dataclass are its fields; other classes that only carry tensors are read the same way.
        items = [(key, item) for key, item in getattr(value, "__dict__", {}).items() if not key.startswith("_")]
    for key, item in items:
        _walk(item, f"{path}.{key}" if path else str(key), ragged, leaves, depth + 1)


def _samples(value: Sequence[Any], path: str, ragged: dict[str, bool], leaves: dict[str, Leaf]) -> bool:
    """Take a list of uncollated samples as ragged leaves; false if the list holds one tensor an input."""
    if path not in ragged:
        ragged[path] = _look_like_samples(value)
    if not ragged[path]:
        return False
    if not isinstance(value[0], Mapping):
        leaves[path] = list(value)
        return True
    for key, item in value[0].items():
        if isinstance(item, Tensor | np.ndarray) and item.ndim:
            leaves[f"{path}.{key}" if path else str(key)] = [sample[key] for sample in value if key in sample]
    return True


def _look_like_samples(value: Sequence[Any]) -> bool:
    if all(isinstance(item, Mapping) for item in value):
        return len(value) > 2 and len({tuple(item) for item in value}) == 1
    if not all(isinstance(item, Tensor | np.ndarray) and item.ndim for item in value):
        return False
    if len({(str(item.dtype), item.ndim) for item in value}) > 1:
        return False
    image = value[0].ndim == 3 and value[0].shape[0] <= _CHANNELS
    # A tuple of two may be (source, target), time first; collate functions keep samples in lists.
    differ = isinstance(value, list) and len({item.shape[0] for item in value}) > 1
    return len(value) > _MANY or image or differ


def _nested_sizes(leaf: Tensor) -> tuple[int, ...]:
    batch = leaf.size(0)
    if leaf.layout == torch.jagged:
        tokens = leaf.values().shape[0]
        # The longest sequence is on the host only if somebody asked before; on a device, asking would wait for it.
        longest = leaf._maybe_max_seqlen if leaf.device.type != "cpu" else int(leaf.offsets().diff().max())  # type: ignore[attr-defined]
        return (batch, tokens) if longest is None else (batch, int(longest), tokens)
    lengths = leaf._nested_tensor_size()[:, 0]
    return (batch, int(lengths.max()), int(lengths.sum()))
