"""The report as one HTML page that needs nothing but itself: no script, no link, no image file."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from fulgurite.callbacks.representative_interpretation import wording
from fulgurite.callbacks.representative_interpretation.clues import group_name
from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.figures import draw_history
from fulgurite.callbacks.representative_interpretation.pixels import as_uri, coloured, contrast
from fulgurite.callbacks.representative_interpretation.views import KEPT, Shown, View
from fulgurite.callbacks.representative_interpretation.wording import percent
from fulgurite.callbacks.seqpoint.page import inline_svg

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.survey import Survey

_SMALL = 64  # images up to this side are shown with their pixels as they are


def render(survey: "Survey", history: Sequence[Snapshot], *, notes: Sequence[str] = ()) -> str:
    """The page's HTML; every text that comes from outside is escaped.

    Args:
        survey: the pass.
        history: all passes of the run so far, this one last.
        notes: what the reader must know before trusting a number, in plain text, beside the pass's own notes.
    """
    sections = [
        ("Groups", wording.ABOUT_GROUPS, _groups(survey)),
        ("Numbers", wording.ABOUT_NUMBERS, _numbers(survey)),
        ("From pass to pass", wording.ABOUT_HISTORY, _history(survey, history)),
        ("Where the network was cut", wording.ABOUT_CUTS, _cuts(survey)),
        ("Words", "", _words()),
    ]
    told = list(dict.fromkeys([*notes, *survey.notes]))
    body = [_tiles(survey), _alarms(survey), _notes("What to know about these numbers", map(escape, told))]
    body += [f"<h2>{title}</h2>\n{_paragraph(text)}\n{content}" for title, text, content in sections if content]
    page = files("fulgurite.callbacks.representative_interpretation").joinpath("page.html")
    return Template(page.read_text(encoding="utf-8")).substitute(
        title=escape(wording.TITLE),
        lead=escape(wording.lead(survey)),
        body="\n".join(part for part in body if part),
        footer=escape(wording.FOOTER),
    )


def _tiles(survey: "Survey") -> str:
    tiles = "\n".join(
        f'<div class="tile"><div class="name">{escape(tile.name)}</div><div class="value">{escape(tile.value)}</div>'
        f'<div class="more">{escape(tile.more)}</div></div>'
        for tile in wording.headline(survey)
    )
    return f'<div class="tiles{" alarmed" if survey.clues else ""}">\n{tiles}\n</div>'


def _alarms(survey: "Survey") -> str:
    items = []
    for clue in survey.clues:
        group = group_name(survey.name(clue.label), clue.number)
        link = f'<a href="#{_anchor(clue.label, clue.number)}">{escape(group)}</a>'
        items.append(escape(clue.text).replace(escape(group), link, 1))
    return _notes("Look at these groups", items, kind=" alarm")


def _notes(title: str, items: Iterable[str], *, kind: str = "") -> str:
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<div class="notes{kind}"><p>{title}</p><ul>{listed}</ul></div>' if listed else ""


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _groups(survey: "Survey") -> str:
    parts = []
    clues = {(clue.label, clue.number, clue.kind): clue for clue in survey.clues}
    for view in survey.views:
        label = view.found.label
        if view.number == 0:
            own = wording.count(survey.predicted.get(label, 0), "image")
            parts.append(f'<h3>{escape(survey.name(label))}<span class="of-class">predicted for {own}</span></h3>')
        kinds = [kind for kind in ("mixed", "spot") if (label, view.number, kind) in clues]
        parts.append(_group(survey, view, kinds))
    return "\n".join(parts)


def _group(survey: "Survey", view: View, kinds: Sequence[str]) -> str:
    strips = [
        _strip("members' mean · mean map · rest of the class", _common(view)),
        _strip("members, nearest first", _shown(survey, view, ("centre", "member"))),
        _strip("members of another true class", _shown(survey, view, ("odd",))),
        _strip("same prediction, left out", _shown(survey, view, ("left out",))),
    ]
    if "spot" in kinds:
        named = survey.name(view.found.label)
        strips.append(_strip(f"other images, taken for {named} once the spot is in them", _pasted(survey, view)))
    about = f'<p class="spot{" alarm" if "spot" in kinds else ""}">{escape(wording.about_spot(view))}</p>'
    if view.found.label_mix and len(view.found.label_mix) > 1:
        mix = sorted(view.found.label_mix.items(), key=lambda item: (-item[1], item[0]))
        text = "True labels: " + ", ".join(f"{count} × {survey.name(label)}" for label, count in mix) + "."
        about += f'<p class="spot{" alarm" if "mixed" in kinds else ""}">{escape(text)}</p>'
    return (
        f'<section class="group{" alarmed" if kinds else ""}" id="{_anchor(view.found.label, view.number)}">'
        f"<header><b>Group {view.number + 1}</b><span>{escape(wording.about_view(survey, view))}</span></header>"
        f'<div class="pictures">{"".join(strips)}</div>{about}</section>'
    )


def _strip(what: str, pictures: Sequence[str]) -> str:
    if not pictures:
        return ""
    return f'<div class="strip"><div class="what">{escape(what)}</div><div class="row">{"".join(pictures)}</div></div>'


def _common(view: View) -> list[str]:
    faint = (view.mean_members * 0.45).astype(np.uint8)
    layer = coloured(contrast(view.mean_map))
    pictures = [
        _picture(as_uri(view.mean_members), "", view.mean_members.shape, "mean of all members", ""),
        _picture(as_uri(faint), as_uri(layer), faint.shape, "mean of the members' maps", ""),
    ]
    if view.mean_rest is not None:
        text = "mean of the other images of this prediction"
        pictures.append(_picture(as_uri(view.mean_rest), "", view.mean_rest.shape, text, ""))
    return pictures


def _shown(survey: "Survey", view: View, roles: Sequence[str]) -> list[str]:
    pictures = []
    for shown in view.shown:
        if shown.role not in roles:
            continue
        kind = {"centre": " centre", "odd": " odd", "left out": " faded"}.get(shown.role, "")
        pictures.append(
            _picture(
                as_uri(shown.pixels),
                as_uri(coloured(shown.heat)),
                shown.pixels.shape,
                f"image {shown.index}",
                _caption(survey, view, shown),
                kind=kind,
            )
        )
    return pictures


def _pasted(survey: "Survey", view: View) -> list[str]:
    return [
        _picture(
            as_uri(shown.pixels),
            as_uri(coloured(shown.heat)),
            shown.pixels.shape,
            f"image {shown.index} with the spot",
            f"was: {survey.name(shown.predicted)}",
            kind=" odd",
        )
        for shown in view.pasted
    ]


def _caption(survey: "Survey", view: View, shown: Shown) -> str:
    if shown.role == "centre":
        return "found from"
    truth = "" if shown.truth is None else f"true: {survey.name(shown.truth)}"
    if shown.role == "odd":
        return truth
    if shown.role == "left out":
        return truth if shown.truth is not None and shown.truth != view.found.label else ""
    wrong = shown.truth is not None and shown.truth != view.found.label
    return truth if wrong else f"{shown.distance:.3g}"


def _picture(image: str, layer: str, shape: Sequence[int], alt: str, caption: str, *, kind: str = "") -> str:
    small = " small" if max(shape[:2]) <= _SMALL else ""
    over = f'<img class="map" alt="" src="{layer}">' if layer else ""
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="pic{kind}"><span class="stack{small}" title="{escape(alt)}">'
        f'<img alt="{escape(alt)}" src="{image}">{over}</span>{under}</figure>'
    )


def _numbers(survey: "Survey") -> str:
    views = {(view.found.label, view.number): view for view in survey.views}
    alarmed = {(clue.label, clue.number) for clue in survey.clues}
    labelled = any(group.label_purity is not None for group in survey.groups)
    exact = any(group.gap is not None for group in survey.groups)
    tested = bool(survey.held_out)
    head = ["group", "coverage", "strangers", "purity", "planes", "exact", "signs agree"]
    head += ["gap to optimum"] * exact + ["held-out coverage", "held-out purity"] * tested
    head += ["label purity"] * labelled + [f"drop at {KEPT:.0%}", "rise", "maps in spot", "turned"]
    rows, kinds = [], []
    numbers: dict[int, int] = {}
    for index, found in enumerate(survey.groups):
        number = numbers.setdefault(found.label, 0)
        numbers[found.label] += 1
        name = f'<a href="#{_anchor(found.label, number)}">{escape(survey.name(found.label))}, {number + 1}</a>'
        row = [name, _meter(found.coverage), f"{found.strangers} (δ = {found.delta})", percent(found.purity)]
        row += [f"{len(found.planes)} of {found.sampled}", percent(found.certificate), percent(found.agreement)]
        if exact:
            row.append("" if found.gap is None else percent(found.gap))
        if tested:
            row += [percent(survey.held_out[index].coverage), percent(survey.held_out[index].purity)]
        if labelled:
            row.append("" if found.label_purity is None else percent(found.label_purity))
        view = views.get((found.label, number))
        seen = [math.nan] * 4 if view is None else [view.drop, view.increase, view.mass, view.spot.turned]
        rows.append([*row, *map(percent, seen)])
        kinds.append("alarmed" if (found.label, number) in alarmed else "")
    return _table(head, rows, kinds)


def _history(survey: "Survey", history: Sequence[Snapshot]) -> str:
    if len(history) < 2:
        return ""
    drawn = ""
    if survey.snapshot.kind == "full":  # a picture that takes longer than the rest of a light pass
        drawn = inline_svg(draw_history(history), "Shares, groups kept and planes, pass by pass")
        drawn = f'<figure class="wide">{drawn}</figure>'
    rows = []
    for pair in sorted(survey.pairs, key=lambda pair: pair.jaccard):
        sizes = [
            "–" if number is None or snapshot is None else f"{len(snapshot.groups[number][1]):,}"
            for number, snapshot in ((pair.before, survey.before), (pair.after, survey.snapshot))
        ]
        rows.append([escape(survey.name(pair.label)), *sizes, _meter(pair.jaccard)])
    table = _table(["group of", "images before", "images now", "kept (Jaccard index)"], rows) if rows else ""
    return drawn + table


def _cuts(survey: "Survey") -> str:
    head = ["cut", "shape", "covers", "purity", "planes", "exact", "verdict"]
    rows = []
    for row in survey.groups.cuts:
        shape = "–" if row.shape is None else "×".join(map(str, row.shape))
        planes = "–" if row.planes is None else f"{row.planes:.1f}"
        shares = [_meter(row.coverage), _share(row.purity), planes, _share(row.exact)]
        rows.append([f"<code>{escape(row.name)}</code>", shape, *shares, escape(row.verdict)])
    kinds = ["chosen" if row.name == survey.snapshot.cut else "" for row in survey.groups.cuts]
    return _table(head, rows, kinds, text=(0, 6)) if rows else ""


def _words() -> str:
    return "<dl>" + "".join(f"<dt>{escape(w)}</dt><dd>{escape(m)}</dd>" for w, m in wording.WORDS.items()) + "</dl>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str] = (), *, text: Sequence[int] = (0,)
) -> str:
    """Cells are HTML already; columns in ``text`` are set to the left."""
    kinds_of = {column: ' class="text long"' if column else ' class="text"' for column in text}
    cells = [kinds_of.get(column, "") for column in range(len(head))]
    top = "".join(f"<th{cell}>{escape(name)}</th>" for cell, name in zip(cells, head, strict=True))
    lines = []
    for row, kind in zip(rows, kinds or [""] * len(rows), strict=True):
        inside = "".join(f"<td{cell}>{value}</td>" for cell, value in zip(cells, row, strict=True))
        lines.append(f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _meter(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return "–"
    return f'<span class="meter"><span style="width:{share:.1%}"></span></span><span class="of">{percent(share)}</span>'


def _anchor(label: int, number: int) -> str:
    return f"class-{label}-group-{number + 1}"
