"""What should make a person look twice at a group: true classes that mix in it, and one spot that decides alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fulgurite.callbacks.representative_interpretation.views import View

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation

_LEAST_ODD = 3  # so few members of another class that one or two mistakes of the network are no alarm
Kind = Literal["mixed", "spot"]


class GroupAlarm(UserWarning):
    """A group of a full pass that a person should look at."""


@dataclass(frozen=True)
class Clue:
    """Why a group is suspicious.

    Attributes:
        kind: ``mixed`` (several true classes in one group) or ``spot`` (a small part of the picture decides).
        label: the group's class.
        number: the group's number in its class, from 0.
        strength: the share that says so: of members of another true class, or of images that the spot turned.
        text: for the reader.
    """

    kind: Kind
    label: int
    number: int
    strength: float
    text: str


def find_clues(views: Sequence[View], *, alarm: float, name: Callable[[int], str]) -> tuple[Clue, ...]:
    """The alarms of a pass, the strongest first.

    A group whose commonest true label holds less than the share ``alarm`` of its members, three or more others apart,
    is *mixed*: the network treats images of several classes alike, by something that they share and their classes do
    not. A *spot* is a small part of the picture at an edge or in a corner in which many members and few others have the
    same pixels, and which makes images of other predictions into this one when it is pasted into them
    (:func:`~fulgurite.callbacks.representative_interpretation.spots.find_spot`).

    Args:
        views: the groups.
        alarm: least share of a group's commonest true label.
        name: a class in words.
    """
    clues = []
    for view in views:
        found = view.found
        group = group_name(name(found.label), view.number)
        if _is_mixed(found, alarm):
            assert found.label_mix is not None
            assert found.label_purity is not None
            order = sorted(found.label_mix.items(), key=lambda item: (-item[1], item[0]))
            mix = ", ".join(f"{count} × {name(label)}" for label, count in order[:4])
            rest = f" and {len(order) - 4} more classes" if len(order) > 4 else ""
            text = (
                f"{group} mixes true classes: {mix}{rest}. The network treats these images alike; look at what they "
                "share, it may be no part of the thing itself"
            )
            clues.append(Clue("mixed", found.label, view.number, 1 - found.label_purity, text))
        spot = view.spot
        if spot.decides:
            text = (
                f"{group} hangs on {spot.place}: {spot.alike:.0%} of its images have the same pixels there "
                f"({spot.where.mean():.0%} of the picture), and so have {spot.alike_elsewhere:.0%} of other "
                f"predictions. Pasted into these, they turn {spot.turned:.0%} of them into {name(found.label)}"
            )
            clues.append(Clue("spot", found.label, view.number, spot.turned, text))
    return tuple(sorted(clues, key=lambda clue: -clue.strength))


def group_name(name: str, number: int) -> str:
    """A group in words.

    Example:
        >>> group_name("cat", 0)
        'cat, group 1'
    """
    return f"{name}, group {number + 1}"


def _is_mixed(found: "Interpretation", alarm: float) -> bool:
    if not found.label_mix or found.label_purity is None:
        return False
    odd = sum(found.label_mix.values()) - max(found.label_mix.values())
    return found.label_purity < alarm and odd >= _LEAST_ODD
