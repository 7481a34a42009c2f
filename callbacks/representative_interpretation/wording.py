"""What the report says in words, for a reader who has never heard of representative interpretations."""

import math
from typing import TYPE_CHECKING

from fulgurite.callbacks.representative_interpretation.spots import HOT
from fulgurite.callbacks.representative_interpretation.views import KEPT
from fulgurite.callbacks.seqpoint.headline import Tile

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.survey import Survey
    from fulgurite.callbacks.representative_interpretation.views import View

TITLE = "What similar predictions share"
FOOTER = (
    "Made by fulgurite. After P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, Finding Representative "
    "Interpretations on Convolutional Neural Networks, ICCV 2021, arXiv:2108.06384."
)
ABOUT_GROUPS = (
    "Each group is found from one image: the fewest decision boundaries that set it apart from all other predictions "
    "are chosen so that as many images as possible stay on its side of all of them. These images are decided alike. "
    "Maps show where in the picture these boundaries look. Point at an image to see it without its map."
)
ABOUT_NUMBERS = (
    "Coverage is the share of the class's predictions that a group covers; strangers are images of other predictions "
    "within it. Held-out figures come from images that the groups were not found on."
)
ABOUT_HISTORY = (
    "A group is followed from pass to pass by the images that it shares with its predecessor: the Jaccard index of "
    "their members, 1 where nothing changed."
)
ABOUT_CUTS = (
    "Behind each module that everything passes through, the network can be cut in two. Late cuts say little more than "
    "the predicted class; early cuts say more and cover less."
)
WORDS = {
    "group": "images that lie on one side of every chosen boundary: the network decides them in the same way",
    "plane": "one decision boundary, extended: between the group's class and another, in the space of the feature maps "
    "at the cut",
    "exact": "the plane was verified at another point of its linear piece, towards another image; segment: only along "
    "the segment that it was found on; tangent: only at the crossing itself",
    "purity": "share of a group's images that have the group's prediction",
    "sign agreement": "how often a plane and the network agree on which of two classes an image is nearer to",
    "label purity": "share of a group's images that have its commonest true label",
    "drop": f"what the class's probability loses, of all it has, when only the hottest {KEPT:.0%} of an image are kept "
    "and the rest is 0; rise: share of images for which it does not lose but gains",
    "spot": f"the {HOT:.0%} of the pixels, the same for all images, where a group's maps are hottest on average; or a "
    "smaller part at an edge in which many members, and few others, are the same, and which the network goes by",
    "turned": "share of images of other predictions that turn into the group's class when the spot's pixels of one "
    "member are pasted into them, the highest of a few members",
    "distance": "semantic distance from the image that the group was found from: how differently the chosen planes "
    "see the two",
}


def lead(survey: "Survey") -> str:
    """The page in one sentence."""
    snapshot = survey.snapshot
    when = f"{'Full' if snapshot.kind == 'full' else 'Light'} pass after epoch {snapshot.epoch}"
    classes = len({group.label for group in survey.groups})
    return (
        f"{when}: {count(len(survey.groups), 'group')} in {count(classes, 'predicted class', 'predicted classes')}, "
        f"found on {len(survey.sample):,} of {survey.sample.seen:,} images, with the network cut behind {snapshot.cut}."
    )


def headline(survey: "Survey") -> list[Tile]:
    """The headline numbers, the most important first; what is not known is left out."""
    values = survey.snapshot.values
    groups = survey.groups
    tiles = [
        Tile("Alarms", str(len(survey.clues)), _about_alarms(survey)),
        Tile("Own images covered", percent(groups.coverage), "of a class's predictions, by all of its groups"),
        Tile("Purity", percent(groups.purity), "of covered images have the group's prediction"),
    ]
    if "held_out_purity" in values:
        more = f"and {percent(values.get('held_out_coverage', math.nan))} covered, on images not used to find groups"
        tiles.append(Tile("Held-out purity", percent(values["held_out_purity"]), more))
    if any(group.mode == "tangent" for group in groups):
        more = "of plane sides are the network's own: it is not piecewise linear, and planes are tangents"
        tiles.append(Tile("Sign agreement", percent(values.get("agreement", math.nan)), more))
    else:
        more = f"certified on another image; signs agree for {percent(values.get('agreement', math.nan))}"
        tiles.append(Tile("Exact planes", percent(groups.certificate), more))
    if "planes" in values:
        sampled = max((group.sampled for group in groups), default=0)
        tiles.append(Tile("Planes a group", f"{values['planes']:.1f}", f"chosen of up to {sampled} sampled"))
    if "label_purity" in values:
        tiles.append(Tile("Least label purity", percent(values["label_purity"]), "commonest true label in a group"))
    if "jaccard" in values and survey.before is not None:
        more = f"Jaccard index with the pass after epoch {survey.before.epoch}"
        tiles.append(Tile("Groups kept", percent(values["jaccard"]), more))
    return tiles


def about_view(survey: "Survey", view: "View") -> str:
    """A group in one line."""
    found = view.found
    own = survey.predicted.get(found.label, found.own)
    planes = count(len(found.planes), "plane")
    grades = ", ".join(f"{share:.0%} {grade}" for grade, share in found.grades.items() if share > 0)
    strangers = f", with {count(found.strangers, 'stranger')}" if found.strangers else ""
    return f"covers {found.own:,} of {own:,} predictions{strangers}; {planes}, sampled ones {grades or 'none'}"


def about_spot(view: "View") -> str:
    """Where a group's maps lie, and what pasting the spot does."""
    spot = view.spot
    if not spot.where.any():
        return "Its maps are empty."
    within = "at" if spot.place.endswith("edge") else "in"
    text = f"{view.mass:.0%} of its maps lie in {spot.where.mean():.0%} of the pixels, {within} {spot.place}"
    if not math.isnan(view.mass_elsewhere):
        text += f" (other groups: {view.mass_elsewhere:.0%})"
    if spot.decides:
        text += f", where {spot.alike:.0%} of its images are the same"
    if not math.isnan(spot.turned):
        text += f"; pasted into other images, these pixels turn {spot.turned:.0%}"
    return text + "."


def percent(share: float) -> str:
    """A share as people write it.

    Example:
        >>> percent(0.9876), percent(1.0), percent(float("nan"))
        ('98.8%', '100%', '–')
    """
    if math.isnan(share):
        return "–"
    text = f"{share:.1%}"
    return "100%" if text == "100.0%" else "0%" if text == "0.0%" else text


def count(number: int, what: str, many: str = "") -> str:
    """A number of things.

    Example:
        >>> count(1, "plane"), count(1200, "plane"), count(2, "class", "classes")
        ('1 plane', '1,200 planes', '2 classes')
    """
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def _about_alarms(survey: "Survey") -> str:
    if survey.clues:
        return "groups to look at, below"
    return (
        "no group mixes true labels, none hangs on a spot"
        if survey.sample.labels is not None
        else ("no group hangs on a spot; true labels are not known")
    )
