"""The report folder: pictures, one page and the numbers as JSON; and the table in the terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.figures import draw_groups, draw_history, picture
from fulgurite.callbacks.representative_interpretation.page import render
from fulgurite.callbacks.representative_interpretation.pixels import as_png
from fulgurite.callbacks.representative_interpretation.wording import headline
from fulgurite.plugins.files import replacing, write_text

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.survey import Survey


def draw(survey: "Survey", history: Sequence[Snapshot]) -> dict[str, NDArray[np.uint8]]:
    """The pictures of a pass as pixels (H, W, 3): ``groups`` and, of a full one that was not the first, ``history``."""
    drawn = {"groups": picture(draw_groups(survey))}
    if len(history) > 1 and survey.snapshot.kind == "full":
        drawn["history"] = picture(draw_history(history))
    return drawn


def write_report(
    folder: Path,
    survey: "Survey",
    history: Sequence[Snapshot],
    *,
    notes: Sequence[str] = (),
    pictures: Mapping[str, NDArray[np.uint8]] | None = None,
) -> Path:
    """Write ``report.html``, ``groups.json``, ``groups.png`` and ``history.png`` into a folder.

    Everything is worked out before the first file is written, and each file is written whole or not at all.

    Args:
        folder: where; made if missing.
        survey: the pass.
        history: all passes of the run so far, this one last.
        notes: what the reader must know before trusting a number, beside the pass's own notes.
        pictures: those of :func:`draw`, if they are drawn already.

    Returns:
        The path of ``report.html``.

    Raises:
        OSError: the folder cannot be made or written to.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> from fulgurite.callbacks.representative_interpretation.sampling import Sample
        >>> from fulgurite.callbacks.representative_interpretation.survey import survey
        >>> images = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> labels = (images[:, 0, :3].mean((1, 2)) > 0.5).long()
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> with torch.no_grad():
        ...     for weight in net.parameters():
        ...         _ = weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
        >>> found = survey(net, Sample(images, labels, 60), boundaries=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_report(Path(folder), found, [found.snapshot])
        ...     sorted(path.name for path in report.parent.iterdir())
        ['groups.json', 'groups.png', 'report.html']
    """
    folder = Path(folder)
    page = render(survey, history, notes=notes)
    text = to_json(survey, history, notes=notes)
    drawn = draw(survey, history) if pictures is None else pictures
    for name, content in {name: as_png(pixels) for name, pixels in drawn.items()}.items():
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(content)
    if "history" not in drawn:
        (folder / "history.png").unlink(missing_ok=True)
    write_text(folder / "groups.json", text)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def to_json(survey: "Survey", history: Sequence[Snapshot], *, notes: Sequence[str] = ()) -> str:
    """The numbers as JSON; the same seed and the same network give the same text, byte by byte.

    Keys: ``pass`` (epoch, step, kind, cut, values), ``groups`` (all that
    :meth:`~fulgurite.callbacks.representative_interpretation.groups.Groups.to_dict` tells), ``views`` (where maps lie
    and what pasting does), ``held_out``, ``alarms``, ``pairs`` (matched groups), ``history`` and ``notes``.
    """
    state = survey.snapshot.state()
    told = {
        "pass": {name: state[name] for name in ("epoch", "step", "kind", "cut", "values")},
        "reference": {
            "images": len(survey.sample),
            "seen": survey.sample.seen,
            "labelled": survey.sample.labels is not None,
            "predicted": {survey.name(label): count for label, count in sorted(survey.predicted.items())},
        },
        "groups": survey.groups.to_dict(),
        "views": [
            {
                "label": view.found.label,
                "group": view.number,
                **{n: getattr(view, n) for n in ("mass", "mass_elsewhere", "drop", "increase")},
                "spot": {n: getattr(view.spot, n) for n in ("place", "decides", "turned", "alike", "alike_elsewhere")},
            }
            for view in survey.views
        ],
        "held_out": [vars(one) for one in survey.held_out],
        "alarms": [vars(clue) for clue in survey.clues],
        "pairs": [vars(pair) for pair in survey.pairs],
        "history": [{"epoch": s.epoch, "step": s.step, "kind": s.kind, "values": s.state()["values"]} for s in history],
        "notes": list(dict.fromkeys([*notes, *survey.notes])),
    }
    return json.dumps(_plain(told), indent=1, sort_keys=False, allow_nan=False, ensure_ascii=False) + "\n"


def summary_table(survey: "Survey") -> Table:
    """The headline numbers for the terminal."""
    table = Table(
        title="Representative interpretations",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=False,
        pad_edge=False,
    )
    table.add_column("what")
    table.add_column("value", justify="right", style="bold", no_wrap=True)
    table.add_column("against", style="dim")
    for tile in headline(survey):
        style = "red" if tile.name == "Alarms" and survey.clues else None
        table.add_row(tile.name, tile.value, tile.more, style=style)
    return table


def _plain(value: Any) -> Any:
    """With ``None`` for what is not a number, which JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
