"""How the CPU kernels are compiled, and kept for the next process."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fulgurite.models.sparse_network.jit import compiled

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Not the whole of "fast": nnan and ninf would let the compiler assume that nothing diverges.
FASTMATH = {"reassoc", "contract", "nsz"}


def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


_SOURCES = _digest()


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function of the CPU backend (see :func:`~fulgurite.models.sparse_network.jit.compiled`).

    numba counts no references in it, which costs several locked instructions a node; so it can allocate nothing, and
    works on arrays that it is handed. ``_nrt=True`` lifts this.

    Sums may be reordered and multiplications joined with additions, but NaN and ∞ are kept. Divisions by zero follow
    IEEE, not Python.

    numba takes kept code for fresh as long as the function's own file is unchanged, whatever became of the functions
    that it calls; so the name that it is kept under tells the state of all kernels' files.

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
        function.__qualname__ = f"{function.__qualname__}-{_SOURCES}"
        return compiled(**{"fastmath": FASTMATH, "error_model": "numpy", "_nrt": False, **options})(function)

    return decorate
