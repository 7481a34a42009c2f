"""Where to cut a net so that an interpretation says more than "this is the predicted class"."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.anchors import Options
from fulgurite.callbacks.representative_interpretation.cut import CutError, Split, Splitter, candidates, split
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow as CutRow
from fulgurite.callbacks.representative_interpretation.cut_rows import CutTable
from fulgurite.callbacks.representative_interpretation.measuring import Measuring
from fulgurite.callbacks.representative_interpretation.reference import (
    MOST_BYTES,
    Reference,
    as_reference,
    looking_into,
)

MOST_COVERAGE = 0.95  # a cut at which one interpretation covers more of its class says no more than the class
_CHOSEN = "chosen"
_SAMPLE = 16  # images that a cut is verified on


class DegenerateCutWarning(UserWarning):
    """Interpretations at this cut say hardly more than the predicted class; the message names the reason.

    Example:
        >>> issubclass(DegenerateCutWarning, UserWarning)
        True
    """


@dataclass(frozen=True, eq=False)
class Choice:
    """The cut that was taken, and what is known of all.

    Attributes:
        split: there.
        rows: a row a cut, first to last.

    Example:
        >>> Choice.__annotations__["rows"]
        tuple[fulgurite.callbacks.representative_interpretation.cut_rows.CutRow, ...]
    """

    split: Split
    rows: tuple[CutRow, ...]


def choose_cut(
    model: nn.Module,
    reference: Reference,
    *,
    options: Options | None = None,
    logits: Callable[[Any], Any] | None = None,
    most_coverage: float = MOST_COVERAGE,
    every: bool = False,
    deadline: float | None = None,
    stacklevel: int = 2,
) -> Choice:
    """Take the last cut at which interpretations say more than the predicted class.

    From the last cut backwards, cuts behind which the net is affine are skipped (all of a class lies in one polytope),
    and cuts at which an interpretation covers more than ``most_coverage`` of its predicted class, in the mean over the
    medoids of the largest classes, six at most. If none is left, it is the one that covers least, and a warning is due.
    A reference of more than 1,000 images is represented by 1,000 of them, drawn by predicted class. It is left as read
    at the chosen cut.

    Args:
        model: from images to logits.
        reference: the images.
        options: of the interpretations; default: 50 boundaries.
        logits: from the model's output to the logits, where it gives more.
        most_coverage: the mean share of its own class that an interpretation may cover.
        every: measure every cut for the table, also those that the choice needs not.
        deadline: ``time.monotonic()`` after which no further cut is tried.
        stacklevel: of the warning.

    Returns:
        The split and the table.

    Raises:
        CutError: the model has no cut.

    Warns:
        DegenerateCutWarning: every cut covers more than ``most_coverage`` of its class, or is affine.

    Example:
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> choice = choose_cut(net, Reference(images))
        >>> choice.split.name, choice.rows[0].verdict
        ('1', 'chosen')
    """
    options = options or Options()
    choice = _choose(model, reference, options, logits, most_coverage, deadline, every=every)
    chosen = next(row for row in choice.rows if row.name == choice.split.name)
    if len(reference.counts) > 1 and not _informative(chosen, most_coverage):
        warnings.warn(f"every cut says little: {_reason(chosen)}", DegenerateCutWarning, stacklevel=stacklevel)
    return choice


def cut_table(
    model: nn.Module,
    reference: Any,
    *,
    boundaries: int = 50,
    logits: Callable[[Any], Any] | None = None,
    most_coverage: float = MOST_COVERAGE,
    deadline: float | None = None,
    batch_size: int = 256,
    most_bytes: int = MOST_BYTES,
    seed: int = 0,
) -> CutTable:
    """How much interpretations say at each cut of a net: the mean coverage, purity and number of planes there.

    Of P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks",
    https://arxiv.org/abs/2108.06384, who cut at the last convolution. Where the net behind that is affine, or nearly
    so, one polytope holds a whole predicted class and says no more than the class does. ``cut="auto"`` measures only
    as many cuts as it needs; here each one is.

    Args:
        model: any classifier from images to logits.
        reference: unlabelled images, as for
            :func:`~fulgurite.callbacks.representative_interpretation.interpreting.interpret`; of more than 1,000 as
            many are drawn.
        boundaries: sampled for each of the six interpretations at most whose mean is taken.
        logits: see ``interpret``, as for the options that are not named here.
        most_coverage: beyond this mean coverage of its own class an interpretation says no more than the class.
        deadline: ``time.monotonic()`` after which no further cut is measured, from the last one backwards.
        batch_size: see ``interpret``.
        most_bytes: see ``interpret``.
        seed: see ``interpret``.

    Returns:
        A row a cut, first to last, which prints as a table.

    Raises:
        ValueError: as ``interpret``.
        CutError: the model has no cut.

    Example:
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> table = cut_table(net, images)
        >>> table.chosen, table[0].coverage < 0.95, str(table).splitlines()[0]
        ('1', True, 'cut  shape  covers  purity  planes  exact   verdict')
    """
    options = Options(boundaries=boundaries, seed=seed)
    with looking_into(model):
        images = as_reference(reference, labels=None, batch_size=batch_size, most_bytes=most_bytes, seed=seed)
        choice = _choose(model, images, options, logits, most_coverage, deadline, every=True)
    return CutTable(choice.rows, choice.split.name)


def _choose(
    model: nn.Module,
    reference: Reference,
    options: Options,
    logits: Callable[[Any], Any] | None,
    most_coverage: float,
    deadline: float | None,
    *,
    every: bool,
) -> Choice:
    with looking_into(model):
        sample = _some(reference)
        with _first_run(sample):
            splitter = Splitter(model, sample, logits=logits)
            names = splitter.candidates()
        measuring = Measuring(reference, options)
        rows: list[CutRow] = []
        best: tuple[CutRow, Split] | None = None
        single = False
        for name in reversed(names):
            late = deadline is not None and time.monotonic() > deadline
            enough = best is not None and (single or _informative(best[0], most_coverage))
            if (enough and not every) or (late and best is not None):
                rows.append(_unmeasured(name, "not measured"))
                continue
            try:
                parts = splitter.split(name)
            except CutError as error:
                rows.append(_unmeasured(name, f"no cut: {error}"))
                continue
            row = measuring.row(parts, even_affine=every)
            rows.append(row)
            single = row.coverage is not None and len(reference.counts) == 1
            if best is None or (not _informative(best[0], most_coverage) and _says_more(row, best[0])):
                best = (row, parts)
        if best is None:
            raise CutError(
                "the model has no module through which everything passes as an image (B, K, H, W): name a cut that you "
                "know of, or give the model one, such as nn.Identity() behind its last stage"
            )
        chosen, parts = best
        reference.read(parts, source=(model, logits, parts.name))
    return Choice(parts, tuple(_judged(row, chosen, most_coverage) for row in reversed(rows)))


def cut_of(
    model: nn.Module,
    reference: Reference,
    cut: str,
    *,
    options: Options,
    logits: Callable[[Any], Any] | None = None,
    deadline: float | None = None,
    stacklevel: int = 4,
) -> Choice:
    """The model split at a named cut, or at one that is chosen; nothing is done again that this reference knows.

    Args:
        model: which is cut.
        reference: its images; as read at the cut afterwards.
        cut: a module's name, or ``"auto"``.
        options: see :func:`choose_cut`, as of all further ones.
        logits: likewise.
        deadline: likewise.
        stacklevel: of the warning.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> reference = Reference(torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
        >>> choice = cut_of(net, reference, "1", options=Options())
        >>> cut_of(net, reference, "1", options=Options()).split is choice.split
        True
    """
    chosen = next((row.name for row in reference.cuts if row.verdict.startswith(_CHOSEN)), None)
    name = chosen if cut == "auto" else cut
    known = None if name is None else reference.split_for((model, logits, name))
    if known is not None:
        return Choice(known, reference.cuts if cut == "auto" else ())
    if cut != "auto":
        with _first_run(sample := _some(reference)):
            parts = split(model, cut, sample, logits=logits)
        reference.read(parts, source=(model, logits, cut))
        return Choice(parts, ())
    choice = choose_cut(model, reference, options=options, logits=logits, deadline=deadline, stacklevel=stacklevel)
    reference.cuts = choice.rows
    return choice


def warn_if_degenerate(
    model: nn.Module,
    reference: Reference,
    choice: Choice,
    *,
    alone: bool,
    coverage: float = 0.0,
    logits: Callable[[Any], Any] | None = None,
    stacklevel: int = 3,
) -> None:
    """Warn, once a reading, where interpretations say hardly more than the predicted class.

    Args:
        model: which was cut.
        reference: its images.
        choice: the cut; one that was chosen automatically has been judged already.
        alone: whether the reference has no image of another class.
        coverage: the mean share of its own class that an interpretation covers, where several are known.
        logits: as in ``interpret``.
        stacklevel: of the warning.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
        >>> reference = Reference(torch.randn(99, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)), net[0].bias.zero_()
        ...     _ = net[4].weight.copy_(torch.eye(2)), net[4].bias.zero_()
        >>> choice = cut_of(net, reference, "1", options=Options())
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_if_degenerate(net, reference, choice, alone=False)
        >>> str(caught[0].message)[:47]
        "at the cut '1' the net behind the cut is affine"
    """
    parts = choice.split
    if reference.warned:
        return
    if alone:
        reference.warned = True
        said = (
            f"all {len(reference)} reference images are predicted as class {next(iter(reference.counts))}: there is no "
            "boundary to find; give images of other classes too"
        )
        warnings.warn(said, UserWarning, stacklevel=stacklevel)
        return
    if choice.rows:
        return
    if not parts.affine and not coverage > MOST_COVERAGE:
        return
    reference.warned = True
    names = candidates(model, _some(reference), logits=logits)
    earlier = names[: names.index(parts.name)] if parts.name in names else names
    advice = f"try the cut {earlier[-1]!r}, or cut='auto'" if earlier else "there is no earlier cut"
    row = CutRow(parts.name, parts.shape, parts.piecewise_linear, parts.affine, coverage, None, None, None, "")
    warnings.warn(f"at the cut {parts.name!r} {_reason(row)}; {advice}", DegenerateCutWarning, stacklevel=stacklevel)


@contextmanager
def _first_run(images: Tensor) -> Iterator[None]:
    """What goes wrong when a model is first run on images is said with what may be the matter.

    Raises:
        ValueError: the model failed.
    """
    try:
        yield
    except (ValueError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of somebody else's code
        said = (str(error).strip() or "-").splitlines()[0]
        raise ValueError(
            f"the model failed on images {tuple(images.shape)} ({type(error).__name__}: {said}); expected the "
            "torch.nn.Module that was trained, neither scripted nor exported, and images as it takes them"
        ) from error


def _some(reference: Reference) -> Tensor:
    """Images from all over the reference: in sorted ones the first are all alike."""
    index = torch.linspace(0, len(reference) - 1, min(_SAMPLE, len(reference))).round().long()
    return reference.images[index.to(reference.images.device)]


def _unmeasured(name: str, verdict: str) -> CutRow:
    return CutRow(name, None, None, None, None, None, None, None, verdict)


def _informative(row: CutRow, most_coverage: float) -> bool:
    return not row.affine and row.coverage is not None and row.coverage <= most_coverage


def _says_more(row: CutRow, than: CutRow) -> bool:
    """Whether a cut is better than a later one, where neither may be good."""
    if row.affine or row.coverage is None:
        return False
    return bool(than.affine) or than.coverage is None or row.coverage < than.coverage


def _reason(row: CutRow) -> str:
    if row.affine:
        return "the net behind the cut is affine: its planes are those between the classes, the same for every image"
    if row.coverage is None:
        return f"it is {row.verdict}"
    return f"an interpretation covers {row.coverage:.1%} of its predicted class, and so says little more than the class"


def _judged(row: CutRow, chosen: CutRow, most_coverage: float) -> CutRow:
    if row.name == chosen.name:
        return replace(row, verdict=_CHOSEN if _informative(row, most_coverage) else f"{_CHOSEN}: no cut says more")
    if row.verdict:
        return row
    if row.affine:
        return replace(row, verdict="affine behind it")
    if _informative(row, most_coverage):
        return replace(row, verdict="earlier than needed")
    return replace(row, verdict=f"covers above {most_coverage:.0%}")
