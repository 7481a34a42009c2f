"""How the loops of a sparse network are compiled by numba."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function on its first call, outside the interpreter's lock, and keep its code for later processes.

    The code is kept beside the source, or in the user's cache where that folder is read-only (``NUMBA_CACHE_DIR`` names
    another); where nothing can be written, it is compiled in each process. Never pass ``parallel=True``: numba's thread
    pools end the process when it forks, or when several Python threads enter them.

    Args:
        options: numba's own, such as ``fastmath={"reassoc", "contract", "nsz"}`` or ``inline="always"``.

    Example:
        >>> @compiled()
        ... def total(n):
        ...     s = 0
        ...     for i in range(n):
        ...         s += i
        ...     return s
        >>> total(5)
        10
    """

    def decorate(function: _Function) -> _Function:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba finds no folder to keep the code in
            return numba.njit(nogil=True, **options)(function)

    return decorate
