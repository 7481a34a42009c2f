"""How many bytes of tensors are alive, and the most that were: counted operator by operator, on the CPU as on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators allocate while it is on, backward included.

    The CPU has no allocator statistics, and a GPU's count whatever else the process holds, in rounded blocks. A
    dispatch mode sees every operator's outputs, so that the count is of tensors alone, exact and the same on every
    device; it lies in a module with an underscore because torch documents it for extension but gives no other home.
    A storage is counted once however many views it has, until the last of them is gone. What existed before the mode
    was switched on is not counted, nor is scratch memory inside a kernel.

    Args:
        device: count on this kind of device only ("cpu", "cuda"); None: on all.

    Attributes:
        live: bytes alive now.
        peak: the most that were alive since the mode was switched on, or since :meth:`restart`.
        allocated_peak: on CUDA what the allocator's own peak rose above its level at the start; None elsewhere.

    Example:
        >>> with LiveBytes() as bytes_:
        ...     a = torch.zeros(100)
        ...     b = a.view(10, 10) + 1
        ...     del a, b
        >>> bytes_.peak, bytes_.live
        (800, 0)
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self._counted: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._foreign: dict[int, weakref.ref[Any]] = {}
        self._level: int | None = None
        self.live = 0
        self.peak = 0
        self.allocated_peak: int | None = None

    @override
    def __enter__(self) -> Self:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._level = torch.cuda.memory_allocated()
        super().__enter__()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._level is not None:
            torch.cuda.synchronize()
            self.allocated_peak = torch.cuda.max_memory_allocated() - self._level

    def restart(self) -> None:
        """Forget the peak so far; what is alive stays counted."""
        self.peak = self.live

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator, then count the storages that it made."""
        kwargs = kwargs or {}
        # A view of a tensor from before is no new memory: its storage is marked as foreign when it comes in.
        for storage in self._storages((args, kwargs)):
            if id(storage) not in self._counted:
                self._foreign[id(storage)] = weakref.ref(storage, self._forget_foreign(id(storage)))
        result = func(*args, **kwargs)
        for storage in self._storages(result):
            self._count(storage)
        return result

    def _storages(self, values: Any) -> Iterator[torch.UntypedStorage]:
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and (self._device is None or leaf.device.type == self._device):
                for part in _parts(leaf):
                    yield part.untyped_storage()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._foreign:
            return
        size = storage.nbytes()
        if key in self._counted:
            reference, before = self._counted[key]
            self._counted[key] = (reference, size)
            self._change(size - before)
            return
        self._counted[key] = (weakref.ref(storage, self._forget(key)), size)
        self._change(size)

    def _change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> Callable[[Any], None]:
        def gone(_: Any) -> None:
            _, size = self._counted.pop(key)
            self.live -= size

        return gone

    def _forget_foreign(self, key: int) -> Callable[[Any], None]:
        def gone(_: Any) -> None:
            self._foreign.pop(key, None)

        return gone


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()
