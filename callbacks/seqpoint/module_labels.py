"""Labels in a trace that say which module an operator belongs to."""

import threading
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import record_function

from fulgurite.callbacks.seqpoint.spans import MODULE


class ModuleLabels:
    """Marks the forward pass of each named module in the profiler's trace, while attached.

    The hooks are global ones: a module with hooks of its own may take another path through its code, as
    ``TransformerEncoderLayer`` does. They return nothing and touch no tensor. Calls from other threads are not marked.

    Args:
        module: its named submodules are marked; ``None`` for none.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> labels = ModuleLabels(net)
        >>> labels.attach()
        >>> try:
        ...     _ = net(torch.ones(1, 2))
        ... finally:
        ...     labels.detach()
    """

    def __init__(self, module: nn.Module | None) -> None:
        self._module = module
        self._names: dict[int, str] = {}
        self._handles: list[Any] = []
        self._open: list[tuple[int, record_function]] = []
        self._thread = 0

    def attach(self) -> None:
        """Begin to mark; not at all where a module is compiled."""
        if self._module is None:
            return
        modules = dict(self._module.named_modules())
        # Where global hooks exist, a module that torch.compile wrapped warns, and one that was compiled in place is
        # compiled anew.
        if any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in modules.values()):
            return
        self._names = {id(module): name for name, module in modules.items() if name}
        self._thread = threading.get_ident()
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._exit, always_call=True),
        ]

    def detach(self) -> None:
        """End it, also in the middle of a forward pass that raised."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        while self._open:
            self._open.pop()[1].__exit__(None, None, None)

    def _enter(self, module: nn.Module, args: object) -> None:
        # Dynamo takes is_compiling() for true, so that nothing of this is baked into code compiled in the window.
        if torch.compiler.is_compiling() or id(module) not in self._names or threading.get_ident() != self._thread:
            return
        mark = record_function(MODULE + self._names[id(module)])
        mark.__enter__()
        self._open.append((id(module), mark))

    def _exit(self, module: nn.Module, args: object, output: object) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return
        if self._open and self._open[-1][0] == id(module):
            self._open.pop()[1].__exit__(None, None, None)
