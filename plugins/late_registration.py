"""Short names of strategies in Lightning's registry, without importing Lightning for it, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from fulgurite.plugins.registry import load

_STRATEGIES = "lightning.pytorch.strategies"
_waiting: dict[str, tuple[str, str, Mapping[str, object]]] = {}


def register_strategy(name: str, target: str, description: str, **options: object) -> None:
    """Register a strategy's name, now or as soon as Lightning's strategies are imported.

    Args:
        name: for ``Trainer(strategy=…)``, in lower case.
        target: ``"module:attribute"`` of the class; imported when a Trainer asks for it.
        description: one line for ``StrategyRegistry``.
        options: of the class, under this name.

    Example:
        >>> register_strategy("acme_solo", "lightning.pytorch.strategies:SingleDeviceStrategy", "on one device")
        >>> from lightning.pytorch.strategies import StrategyRegistry
        >>> type(StrategyRegistry.get("acme_solo")).__name__
        'SingleDeviceStrategy'
        >>> StrategyRegistry.remove("acme_solo")
    """
    _waiting[name] = (target, description, options)
    strategies = sys.modules.get(_STRATEGIES)
    if strategies is not None:
        _add(strategies)
    elif not any(isinstance(finder, _WhenStrategiesLoad) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenStrategiesLoad())


class _WhenStrategiesLoad(MetaPathFinder):
    """Sees the one import, adds the names after it, and is gone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _STRATEGIES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _add(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _add(strategies: ModuleType) -> None:
    registry = strategies.StrategyRegistry
    while _waiting:
        name, (target, description, options) = _waiting.popitem()

        def build(target: str = target, **given: object) -> object:
            return load(target)(**given)

        if name not in registry:
            registry.register(name, build, description=description, **options)
