"""What ``--allow-import`` opened, for parts that read names out of a recipe by themselves, past jsonargparse."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OPENED: ContextVar[tuple[str, ...]] = ContextVar("fulgurite_opened_imports", default=())


@contextmanager
def opening(modules: Iterable[str]) -> Iterator[None]:
    """Open modules of the user's own while inside.

    Example:
        >>> with opening(["my_package"]):
        ...     is_opened("my_package.models.Net"), is_opened("my_packages.Net")
        (True, False)
    """
    token = _OPENED.set(tuple(modules))
    try:
        yield
    finally:
        _OPENED.reset(token)


def is_opened(path: str) -> bool:
    """Whether the user has opened the module in which a dotted path lies, or one around it; by default none.

    Example:
        >>> is_opened("os.system")
        False
    """
    return any(path == name or path.startswith(name + ".") for name in _OPENED.get())
