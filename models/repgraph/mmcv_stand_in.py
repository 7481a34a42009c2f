"""mmsegmentation under mmcv-lite: a stand-in for the operators that are not compiled, and clear words on versions."""

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

# The compiled part of mmcv, which mmcv-lite is without.
COMPILED = "mmcv._ext"
ADVICE = 'pip install "fulgurite[mmseg]"'


class MissingOperators(ModuleType):
    """A module in which every name is an operator that says, when it is called, that it has not been compiled."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """Give the operator ``name``; what Python itself looks for in a module is not there."""
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def operator(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(
                f"mmcv's operator {name!r} is compiled code, which mmcv-lite does not have; "
                f"install the full mmcv in its place, or take a model without it"
            )

        operator.__name__ = name
        return operator


def provide_operators() -> bool:
    """Put a stand-in where mmcv's compiled operators would be, if they are not there.

    With it, all models of mmsegmentation can be imported, and all that are pure torch can be built and trained. A full
    mmcv, and any fork that brings operators, is used as it is.

    Returns:
        Whether a stand-in serves.
    """
    present = sys.modules.get(COMPILED)
    if present is None and find_spec(COMPILED) is None:
        present = MissingOperators(COMPILED)
        present.__spec__ = ModuleSpec(COMPILED, loader=None)  # find_spec raises for a module without one
        sys.modules[COMPILED] = present
    # Compiled code has a loader; data/mmseg_datasets.py may have been here first.
    return present is not None and present.__spec__ is not None and present.__spec__.loader is None


def import_mmseg(module: str = "mmseg.models") -> ModuleType:
    """Import a part of mmsegmentation, with a stand-in for mmcv's operators where it takes one.

    Args:
        module: which part.

    Raises:
        ImportError: mmsegmentation is not installed, or mmcv or mmengine is of a version that it does not take.
    """
    with warnings.catch_warnings():
        # mmcv's own notice that it looks for its operators in their old place.
        warnings.filterwarnings("ignore", message=".*has been moved to.*mmcv\\.ops", category=ImportWarning)
        try:
            import_module("mmcv")
            provide_operators()
            return import_module(module)
        except AssertionError as error:  # the way in which mmseg checks versions
            raise ImportError(f"mmsegmentation refuses what is installed ({_line(error)}); {ADVICE}") from error
        except ModuleNotFoundError as error:
            raise ImportError(
                f"mmsegmentation cannot be imported ({_line(error)}); it comes with the extra: {ADVICE}"
            ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
