"""A plan as a JSON file: strict on reading, NaN as null, versioned."""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fulgurite.callbacks.seqpoint.cost import CostModel
from fulgurite.callbacks.seqpoint.fingerprint import difference
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Point
from fulgurite.plugins.files import write_text

FORMAT = "fulgurite-seqpoint-plan"
VERSION = 1

_SELECTORS = ("interpolate", "paper", "audit")


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan as JSON, whole or not at all.

    Raises:
        OSError: the folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> plan = select([[8, 5], [8, 9]], [0.1, 0.2])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_plan(plan, f"{folder}/plan.json")
        ...     read_plan(f"{folder}/plan.json") == plan
        True
    """
    write_text(path, json.dumps(to_json(plan), allow_nan=False, ensure_ascii=False) + "\n")


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan written by :func:`write_plan`.

    Raises:
        PlanError: no such file, not JSON, not a plan, a newer version, or numbers that cannot be.

    Example:
        >>> try:
        ...     read_plan("/no/such/plan.json")
        ... except PlanError as error:
        ...     print(error)
        cannot read the plan /no/such/plan.json: No such file or directory
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file, parse_constant=_refuse_constant)
    except OSError as error:
        raise PlanError(f"cannot read the plan {os.fspath(path)}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{os.fspath(path)} is no JSON file: {error}") from None
    try:
        return from_json(data)
    except PlanError as error:
        raise PlanError(f"{os.fspath(path)}: {error}") from None


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain dicts, lists, strings and finite numbers.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> to_json(select([[8, 5], [8, 9]], [0.1, 0.2]))["format"]
        'fulgurite-seqpoint-plan'
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "selector": plan.selector,
        "columns": list(plan.columns),
        "length": plan.length,
        "iterations": plan.iterations,
        "seconds": _number(plan.seconds),
        "explained": _number(plan.explained),
        "error": _number(plan.error),
        "refusal": plan.refusal,
        "fingerprint": plan.fingerprint,
        "systematic": plan.systematic,
        "cost": {
            "terms": [list(term) for term in plan.cost.terms],
            "coefficients": list(plan.cost.coefficients),
            "floor": plan.cost.floor,
        },
        "points": [
            {
                "shape": list(point.shape),
                "weight": point.weight,
                "seconds": _number(point.seconds),
                "cost": point.cost,
                "stratum": point.stratum,
                "runs": list(point.runs),
                "indices": list(point.indices),
            }
            for point in plan.points
        ],
        "lengths": list(plan.lengths),
        "measured": [list(values) for values in plan.measured],
    }


def from_json(data: object) -> Plan:
    """The plan behind :func:`to_json`, with everything checked.

    Raises:
        PlanError: it is not a plan, is of a newer version, lacks a key or has a strange one, or has impossible numbers.

    Example:
        >>> try:
        ...     from_json({"format": "fulgurite-seqpoint-plan", "version": 2})
        ... except PlanError as error:
        ...     print(error)
        a plan of version 2, but this release reads version 1: update fulgurite, or select anew
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PlanError(f'not a SeqPoint plan: expected an object with "format": "{FORMAT}"')
    if data.get("version") != VERSION:
        raise PlanError(
            f"a plan of version {data.get('version')}, but this release reads version {VERSION}: "
            "update fulgurite, or select anew"
        )
    top = _Reader("plan", data, ignored=("format", "version"))
    columns = tuple(top.get("columns", _list(_string)))
    cost = _Reader("cost", top.get("cost", _object))
    model = CostModel(
        columns,
        tuple(tuple(term) for term in cost.get("terms", _list(_list(_count)))),
        tuple(cost.get("coefficients", _list(_finite))),
        cost.get("floor", _positive),
    )
    cost.done()
    plan = Plan(
        selector=top.get("selector", _one_of(_SELECTORS)),
        columns=columns,
        points=tuple(_point(number, item) for number, item in enumerate(top.get("points", _list(_object)))),
        iterations=top.get("iterations", _count),
        seconds=top.get("seconds", _finite_or_nan),
        explained=top.get("explained", _finite_or_nan),
        error=top.get("error", _finite_or_nan),
        refusal=top.get("refusal", _string_or_none),
        fingerprint=top.get("fingerprint", _string),
        length=top.get("length", _count),
        cost=model,
        lengths=tuple(top.get("lengths", _list(_count))),
        systematic=top.get("systematic", _not_negative),
        measured=tuple(tuple(values) for values in top.get("measured", _list(_list(_positive)))),
    )
    top.done()
    _validate(plan)
    return plan


def _point(number: int, item: dict[str, Any]) -> Point:
    reader = _Reader(f"points[{number}]", item)
    point = Point(
        shape=tuple(reader.get("shape", _list(_count))),
        weight=reader.get("weight", _not_negative),
        seconds=reader.get("seconds", _finite_or_nan),
        indices=tuple(reader.get("indices", _list(_count))),
        runs=tuple(reader.get("runs", _list(_count))),
        stratum=reader.get("stratum", _count),
        cost=reader.get("cost", _positive),
    )
    reader.done()
    return point


def _validate(plan: Plan) -> None:
    logged, width = len(plan.lengths), len(plan.columns)
    faults = {
        "it has no columns or no points": not plan.columns or not plan.points,
        "a shape or a term has another number of columns": any(
            len(row) != width for row in (*(point.shape for point in plan.points), *plan.cost.terms)
        ),
        "the cost proxy has not one coefficient a term": not plan.cost.terms
        or len(plan.cost.terms) != len(plan.cost.coefficients),
        "the length column does not exist": plan.length >= width,
        "it has more logged iterations than iterations": not 0 < logged <= plan.iterations,
        "its points do not stand for every logged iteration once": sorted(
            index for point in plan.points for index in point.indices
        )
        != list(range(logged)),
        "a point has no run, or a run that was not logged": any(
            not point.runs or max(point.runs) >= logged for point in plan.points
        ),
        "its weights do not add up to its iterations": plan.selector != "audit"
        and not math.isclose(float(np.sum(plan.weights)), plan.iterations, rel_tol=1e-9),
        "its measured times are not one list for each point": bool(plan.measured)
        and (len(plan.measured) != len(plan.points) or not all(plan.measured)),
    }
    found = [text for text, fault in faults.items() if fault]
    if found:
        raise PlanError(f"a damaged plan: {found[0]}")
    try:
        difference(plan.fingerprint, plan.fingerprint, plan.columns)
    except ValueError as error:
        raise PlanError(f"a damaged plan: {error}") from None


class _Reader:
    """Reads an object's keys one by one, each checked, and complains of those left over."""

    def __init__(self, name: str, data: Mapping[str, Any], *, ignored: tuple[str, ...] = ()) -> None:
        self.name = name
        self.data = data
        self.left = set(data) - set(ignored)

    def get(self, key: str, check: Callable[[Any], Any]) -> Any:
        if key not in self.data:
            raise PlanError(f"a damaged plan: {self.name} has no {key!r}")
        self.left.discard(key)
        try:
            return check(self.data[key])
        except (TypeError, ValueError, OverflowError) as error:
            raise PlanError(f"a damaged plan: {self.name}.{key}: {error}") from None

    def done(self) -> None:
        if self.left:
            raise PlanError(f"a damaged plan: {self.name} has an unknown key {min(self.left)!r}")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r:.40}")
    return float(value)


def _finite_or_nan(value: Any) -> float:
    return math.nan if value is None else _finite(value)


def _positive(value: Any) -> float:
    if _finite(value) <= 0:
        raise ValueError(f"expected a positive number, got {value!r:.40}")
    return float(value)


def _not_negative(value: Any) -> float:
    if _finite(value) < 0:
        raise ValueError(f"expected a number that is not negative, got {value!r:.40}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"expected a whole number that is not negative, got {value!r:.40}")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r:.40}")
    return value


def _string_or_none(value: Any) -> str | None:
    return None if value is None else _string(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {value!r:.40}")
    return value


def _list(check: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {value!r:.40}")
        return [check(item) for item in value]

    return read


def _one_of(names: tuple[str, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {value!r:.40}")
        return value

    return read


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
