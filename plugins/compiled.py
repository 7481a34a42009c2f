"""How loops are compiled by numba, and kept for later processes without mixing up what they were compiled from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numba

try:
    import fcntl
except ImportError:  # Windows, where processes do not take turns
    fcntl = None  # type: ignore[assignment]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(*, sources: Sequence[Path] = (), keep: bool = True, **options: Any) -> Callable[[_Function], _Function]:
    """Compile a function on its first call, outside the interpreter's lock, and keep its code for later processes.

    The code is kept beside the source, or in the user's cache where that folder is read-only (``NUMBA_CACHE_DIR`` names
    another); where nothing can be written, it is compiled in each process. numba numbers what it keeps for a function,
    and takes it for fresh as long as the function's own file is unchanged. So a process that began before an edit
    could leave its code under a number that one after the edit had given out, and two that compile for different types
    at once could give out one number twice: the wrong code would run, then and ever after. Here the name that code is
    kept under tells the content of the file, and of ``sources``; and processes take turns.

    Never pass ``parallel=True``: numba's thread pools end the process when it forks, or when several Python threads
    enter them.

    Args:
        sources: files, beside the function's own, whose compiled functions it calls.
        keep: False for a function that takes compiled functions as arguments: numba takes these for others in every
            process, so that it would never find what it kept, and keep it once more each time.
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
        if not keep:
            return numba.njit(nogil=True, **options)(function)
        own = Path(function.__code__.co_filename)
        if own.is_file():
            function.__qualname__ = f"{function.__qualname__}-{_digest((own, *sources))}"
        try:
            made = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba finds no folder to keep the code in
            return numba.njit(nogil=True, **options)(function)
        _take_turns(made)
        return made

    return decorate


@cache
def _digest(files: tuple[Path, ...]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _take_turns(dispatcher: Any) -> None:
    """Let no two processes read or write a function's kept code at once; numba has no public way to ask for that."""
    kept: Any = getattr(dispatcher, "_cache", None)
    for name in ("load_overload", "save_overload"):
        if callable(method := getattr(kept, name, None)):
            setattr(kept, name, _alone(method, Path(kept.cache_path)))


def _alone(method: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    @wraps(method)
    def taking_turns(*args: Any, **kwargs: Any) -> Any:
        with _lock(folder):
            return method(*args, **kwargs)

    return taking_turns


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    file = None
    if fcntl is not None:
        with suppress(OSError):  # a folder that cannot be written, or a file system without locks
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / "turns.lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)  # and so unlocked
