"""RepresentativeInterpretation: what a CNN's many similar predictions share."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.auto_cut import DegenerateCutWarning as DegenerateCutWarning
    from fulgurite.callbacks.representative_interpretation.auto_cut import cut_table as cut_table
    from fulgurite.callbacks.representative_interpretation.callback import (
        RepresentativeInterpretation as RepresentativeInterpretation,
    )
    from fulgurite.callbacks.representative_interpretation.cut import CutError as CutError
    from fulgurite.callbacks.representative_interpretation.groups import Groups as Groups
    from fulgurite.callbacks.representative_interpretation.groups import interpret_classes as interpret_classes
    from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation as Interpretation
    from fulgurite.callbacks.representative_interpretation.interpreting import interpret as interpret
    from fulgurite.callbacks.representative_interpretation.reference import Reference as Reference

_HOMES = {
    "CutError": "fulgurite.callbacks.representative_interpretation.cut",
    "DegenerateCutWarning": "fulgurite.callbacks.representative_interpretation.auto_cut",
    "Groups": "fulgurite.callbacks.representative_interpretation.groups",
    "Interpretation": "fulgurite.callbacks.representative_interpretation.interpretation",
    "Reference": "fulgurite.callbacks.representative_interpretation.reference",
    "RepresentativeInterpretation": "fulgurite.callbacks.representative_interpretation.callback",
    "cut_table": "fulgurite.callbacks.representative_interpretation.auto_cut",
    "interpret": "fulgurite.callbacks.representative_interpretation.interpreting",
    "interpret_classes": "fulgurite.callbacks.representative_interpretation.groups",
}
__all__ = [
    "CutError",
    "DegenerateCutWarning",
    "Groups",
    "Interpretation",
    "Reference",
    "RepresentativeInterpretation",
    "cut_table",
    "interpret",
    "interpret_classes",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
