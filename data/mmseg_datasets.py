"""mmsegmentation's data set classes, which know where images and masks lie, classes and colours."""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

_COMPILED = "mmcv._ext"


class _NoOperators(ModuleType):
    """In the place of mmcv's compiled operators, none of which a data set calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> NoReturn:
            raise RuntimeError(f"mmcv's operator {name!r} is compiled code, which mmcv-lite does not have")

        return operator


def find_dataset(name: str) -> type[Any]:
    """Give a data set class of mmsegmentation.

    Args:
        name: of the class, such as ``ADE20KDataset``.

    Raises:
        ValueError: it has none of that name that is for semantic segmentation.
        ImportError: mmsegmentation is not installed, or does not take what is beside it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*has been moved to.*mmcv\\.ops", category=ImportWarning)
            import_module("mmcv")
            # data imports nothing of ours, so that this is a short form of models/repgraph/mmcv_stand_in.py; whichever
            # comes first serves both.
            if _COMPILED not in sys.modules and find_spec(_COMPILED) is None:
                module = _NoOperators(_COMPILED)
                module.__spec__ = ModuleSpec(_COMPILED, loader=None)
                sys.modules[_COMPILED] = module
            datasets = import_module("mmseg.datasets")
    except (AssertionError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f'MmsegData needs mmsegmentation ({reason}); it comes with the extra: pip install "fulgurite[mmseg]"'
        ) from error
    base = datasets.BaseSegDataset
    known = {
        key
        for key in dir(datasets)
        if isinstance(found := getattr(datasets, key), type)
        and issubclass(found, base)
        and getattr(found, "METAINFO", None)
    }
    if name not in known:
        raise ValueError(f"got dataset={name!r}; choose from {', '.join(sorted(known))}")
    return getattr(datasets, name)
