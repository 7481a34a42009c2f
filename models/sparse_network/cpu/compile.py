"""How the CPU kernels are compiled, and kept for the next process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fulgurite.plugins.compiled import compiled

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Not the whole of "fast": nnan and ninf would let the compiler assume that nothing diverges.
FASTMATH = {"reassoc", "contract", "nsz"}


# Kernels call each other from file to file.
_SOURCES = sorted(Path(__file__).parent.glob("*.py"))


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function of the CPU backend (see :func:`~fulgurite.plugins.compiled.compiled`).

    numba counts no references in it, which costs several locked instructions a node; so it can allocate nothing, and
    works on arrays that it is handed. ``_nrt=True`` lifts this.

    Sums may be reordered and multiplications joined with additions, but NaN and ∞ are kept. Divisions by zero follow
    IEEE, not Python.

    Args:
        options: numba's own, which override the above.

    Example:
        >>> @kernel()
        ... def total(values):
        ...     s = 0.0
        ...     for i in range(len(values)):
        ...         s += values[i]
        ...     return s
        >>> import numpy as np
        >>> float(total(np.array([1.0, 2.0, 3.0])))
        6.0
    """

    def decorate(function: _Function) -> _Function:
        defaults: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "_nrt": False}
        return compiled(sources=_SOURCES, **{**defaults, **options})(function)

    return decorate
