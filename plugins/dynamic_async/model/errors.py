"""What can be wrong with a schedule, a map or a trace."""

from __future__ import annotations


class ScheduleError(ValueError):
    """A schedule breaks causality or lets epochs run backwards, or its parts do not fit together."""


class MapError(ValueError):
    """A map gives or is given what does not fit: a matrix that is not square, a NaN, a value outside X."""


class TraceError(ValueError):
    """A recorded run is incomplete, damaged, or of another map."""
