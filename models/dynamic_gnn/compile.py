"""How the CPU kernels of recurrences are compiled, and kept for the next process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fulgurite.plugins.compiled import compiled

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILES = ("cpu_gru", "cpu_lstm", "cpu_tiles", "cpu_wide_gru", "cpu_wide_lstm", "exponential")
_SOURCES = [Path(__file__).with_name(f"{name}.py") for name in _FILES]  # kernels call each other from file to file


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function (see :func:`~fulgurite.plugins.compiled.compiled`); divisions by zero follow IEEE.

    Args:
        options: numba's own.

    Example:
        >>> @kernel()
        ... def half(x):
        ...     return x / 2
        >>> half(3.0)
        1.5
    """
    return compiled(sources=_SOURCES, error_model="numpy", **options)
