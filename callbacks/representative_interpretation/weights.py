"""Whether a model's weights are still those that were looked at, without hashing all of them each time."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.cut import Split

Marks = tuple[tuple[object, ...], ...]
_ROW = 64
_known: WeakKeyDictionary[Split, tuple[Marks, str]] = WeakKeyDictionary()


def marks(model: nn.Module) -> Marks:
    """What changes with the weights and buffers of a model: where each lies, its version, and a checksum of its bits.

    Versions alone do not tell: what is written through ``.data``, as moving averages of weights often are, and
    by kernels that update statistics, counts as no new version.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = marks(layer)
        >>> layer.weight.data[0, 0] += 1e-6
        >>> marks(layer) == before
        False
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    sums = [_checksum(tensor) for tensor in tensors.values()]
    totals = [int(total) for total in sums]  # after all of them: a device need not be waited for at each
    return tuple(
        (name, id(tensor), tensor.data_ptr(), None if tensor.is_inference() else tensor._version, total)
        for (name, tensor), total in zip(tensors.items(), totals, strict=True)
    )


def fingerprint(split: Split) -> str:
    """As :meth:`~….cut.Split.fingerprint`, hashed again only where the weights may have changed since.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2))
        >>> parts = split(net, "0", torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
        >>> fingerprint(parts) == parts.fingerprint()
        True
    """
    now = marks(split.model)
    before = _known.get(split)
    if before is not None and before[0] == now:
        return before[1]
    _known[split] = now, split.fingerprint()
    return _known[split][1]


def _checksum(tensor: Tensor) -> Tensor:
    """Of the bits, as numbers of 8 bytes, and their places, to within a row of a few: at the speed of memory."""
    with torch.no_grad():
        data = tensor.detach().reshape(-1).resolve_conj()
        data = (torch.view_as_real(data) if data.is_complex() else data).reshape(-1).contiguous().view(torch.uint8)
        data = data.clone() if data.storage_offset() % 8 else data
        whole = len(data) // 8 * 8
        bits = data[:whole].view(torch.int64)
        rows = bits[: len(bits) // _ROW * _ROW].view(-1, _ROW).sum(dim=1)
        sums = torch.cat([rows, bits[len(rows) * _ROW :], data[whole:].long()])
        return (sums * (2 * torch.arange(len(sums), device=sums.device) + 1)).sum()
