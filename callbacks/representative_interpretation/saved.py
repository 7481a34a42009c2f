"""Interpretations as JSON and as files."""

import json
import math
import os
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow
from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation
from fulgurite.callbacks.representative_interpretation.planes import Planes
from fulgurite.callbacks.representative_interpretation.reference import looking_into
from fulgurite.callbacks.representative_interpretation.weights import fingerprint
from fulgurite.plugins.files import replacing

FORMAT = "fulgurite-representative-interpretation"
VERSION = 1
_HOW = ("seconds", "batch_size")  # it came about, of which nothing in the result depends
_TENSORS = ("members", "distances", "image", "anchor")
_PLAIN = tuple(
    field.name
    for field in fields(Interpretation)
    if field.name not in ("planes", "split", "fingerprint", "cuts", *_TENSORS)
)


def to_dict(found: Interpretation) -> dict[str, Any]:
    """An interpretation as plain JSON types: everything but tensors of features and weights, and time.

    The same seed, model and reference give byte-identical JSON: counts, indices and ratios of counts are in it, and
    no number whose last digits depend on the order of a sum.

    Example:
        >>> import json
        >>> from fulgurite.callbacks.representative_interpretation import interpret
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> texts = [json.dumps(interpret(net, images[0], images, cut="1").to_dict()) for _ in range(2)]
        >>> texts[0] == texts[1], json.loads(texts[0])["cut"]
        (True, '1')
    """
    plain = {key: value for key, value in _plain(found).items() if key not in _HOW}
    return {
        "format": FORMAT,
        "version": VERSION,
        **plain,
        "certificate": number(found.certificate),
        "label_purity": found.label_purity,
        "members": found.members.tolist(),
        "planes": [
            {"rival": rival, "grade": grade, "positive": positive}
            for rival, grade, positive in zip(
                found.planes.rival.tolist(), found.planes.grade, found.planes.positive.tolist(), strict=True
            )
        ],
        "cuts": [cut_row(row) for row in found.cuts],
    }


def save(found: Interpretation, path: str | os.PathLike[str]) -> None:
    """Write an interpretation as one file: a JSON header and tensors, whole or not at all.

    Example:
        >>> import tempfile
        >>> from fulgurite.callbacks.representative_interpretation import interpret
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> found = interpret(net, images[0], images, cut="1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(found, f"{folder}/found.pt")
        ...     load(f"{folder}/found.pt", net).to_dict() == found.to_dict()
        True
    """
    header = {"format": FORMAT, "version": VERSION, **_plain(found), "cuts": [cut_row(row) for row in found.cuts]}
    state = {
        "header": json.dumps(header, allow_nan=False),
        "tensors": {name: getattr(found, name).contiguous().clone() for name in _TENSORS},
        "planes": found.planes.state_dict(),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(
    path: str | os.PathLike[str], model: nn.Module, images: Tensor | None = None, *, logits: Any = None
) -> Interpretation:
    """Read what :func:`save` wrote; see :meth:`Interpretation.load`.

    Example:
        >>> try:
        ...     load("/no/such/file.pt", nn.Identity())
        ... except ValueError as error:
        ...     print(error)
        cannot read the interpretation /no/such/file.pt: No such file or directory
    """
    values, expected = _read(Path(path))
    sample = values["image"][None] if images is None else images
    with looking_into(model):
        parts = split(model, values["cut"], sample, logits=logits)
        found = fingerprint(parts)
    if found != expected:
        raise ValueError(
            f"{os.fspath(path)} was made with another model, or other weights: expected those whose fingerprint is "
            f"{expected[:12]}…, got {found[:12]}…"
        )
    return Interpretation(**values, fingerprint=expected, split=parts)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """All that a file says, but for the live model's part, and the fingerprint of that model."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        header = json.loads(state["header"])
        known = (header.get("format"), header.get("version"))
        if known != (FORMAT, VERSION):
            raise ValueError(f"got {known[0]!r} of version {known[1]}; expected {FORMAT!r} of version {VERSION}")
        return _values(header, state), header["fingerprint"]
    except OSError as error:
        raise ValueError(f"cannot read the interpretation {path}: {error.strerror}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is no saved interpretation: {lines[0]}") from None


def _values(header: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    values = {name: header[name] for name in _PLAIN}
    values |= {name: _number_back(values[name]) for name in ("coverage", "purity", "agreement")}
    values["grades"] = {grade: _number_back(value) for grade, value in values["grades"].items()}
    if values["label_mix"] is not None:
        values["label_mix"] = {int(label): count for label, count in values["label_mix"].items()}
    values["notes"] = tuple(values["notes"])
    values["cuts"] = tuple(
        CutRow(**{**row, "shape": None if row["shape"] is None else tuple(row["shape"])}) for row in header["cuts"]
    )
    values["planes"] = Planes.from_state_dict(state["planes"])
    return values | {name: state["tensors"][name] for name in _TENSORS}


def _plain(found: Interpretation) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in (*_PLAIN, "fingerprint")}
    values["grades"] = {grade: number(value) for grade, value in found.grades.items()}
    values["notes"] = list(found.notes)
    if found.label_mix is not None:
        values["label_mix"] = {str(label): count for label, count in found.label_mix.items()}
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}


def cut_row(row: CutRow) -> dict[str, Any]:
    """A row of the table of cuts as plain JSON types.

    Example:
        >>> cut_row(CutRow("3", (8, 7, 7), True, False, 0.8, float("nan"), 6.5, 1.0, "chosen"))["shape"]
        [8, 7, 7]
    """
    values = {name: number(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
    return values | {"shape": None if row.shape is None else list(row.shape)}


def number(value: float) -> float | None:
    """A number as JSON knows it: ``None`` for one that is not defined.

    Example:
        >>> number(0.5), number(float("nan"))
        (0.5, None)
    """
    return None if math.isnan(value) else value


def _number_back(value: float | None) -> float:
    return math.nan if value is None else value
