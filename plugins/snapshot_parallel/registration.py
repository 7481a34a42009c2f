"""The strategy's short name in Lightning's registry, without importing Lightning for it, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

NAME = "snapshot_parallel"
_STRATEGIES = "lightning.pytorch.strategies"


def register() -> None:
    """Register ``snapshot_parallel``, now or as soon as Lightning's strategies are imported.

    Beside it, like Lightning's own, ``snapshot_parallel_fork`` and ``snapshot_parallel_spawn`` start the ranks by
    fork (notebooks) and spawn.

    Example:
        >>> register()
        >>> from lightning.pytorch.strategies import StrategyRegistry
        >>> [name for name in StrategyRegistry.available_strategies() if name.startswith("snapshot_parallel")]
        ['snapshot_parallel', 'snapshot_parallel_fork', 'snapshot_parallel_spawn']
    """
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
    for name, start_method in ((NAME, "popen"), (f"{NAME}_fork", "fork"), (f"{NAME}_spawn", "spawn")):
        if name not in registry:
            registry.register(
                name,
                _build,
                description=f"timelines cut along time over processes that are started by {start_method!r}",
                start_method=start_method,
            )


def _build(**options: object) -> object:
    from fulgurite.plugins.snapshot_parallel.strategy import SnapshotParallelStrategy

    return SnapshotParallelStrategy(**options)  # type: ignore[arg-type]
