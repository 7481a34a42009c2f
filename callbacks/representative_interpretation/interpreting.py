"""One image, interpreted: which others does the net decide for the same reasons?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.anchors import Anchor, Options, interpret_anchors
from fulgurite.callbacks.representative_interpretation.answers import answers
from fulgurite.callbacks.representative_interpretation.auto_cut import MOST_COVERAGE, cut_of, warn_if_degenerate
from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation
from fulgurite.callbacks.representative_interpretation.reference import (
    MOST_BYTES,
    Reference,
    as_reference,
    checked_images,
    looking_into,
)


def interpret(
    model: nn.Module,
    x: Tensor,
    reference: Any,
    *,
    cut: str = "auto",
    boundaries: int = 50,
    delta: int | None = None,
    exact: bool = False,
    maps: Maps = "channel",
    labels: Tensor | None = None,
    logits: Callable[[Any], Any] | None = None,
    batch_size: int = 256,
    most_bytes: int = MOST_BYTES,
    seed: int = 0,
) -> Interpretation:
    r"""Find the group of reference images that a net decides as it decides x, and the few boundaries that hold it.

    From P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, "Finding Representative Interpretations on
    Convolutional Neural Networks", https://arxiv.org/abs/2108.06384. With ψ the feature map at the cut, G the net
    behind it and c the predicted class of x, a sample 𝒬 of hyperplanes of G's decision boundaries around ψ(x) is taken,
    and P ⊆ 𝒬 chosen so that its polytope holds as many reference images as it can and at most δ of another class:

    .. math:: \max_{P ⊆ 𝒬} |P ∩ R| \quad \text{subject to} \quad |P ∩ D(x)| ≤ δ

    The model is left as it was: modes, statistics, gradients, every random number generator.

    Args:
        model: any classifier from images to logits, never softmax; a single logit z is taken as (0, z).
        x: one image, with or without batch axis. It need not be in the reference, nor be classified rightly.
        reference: unlabelled images R: (N, …) floating tensor, ``Dataset``, ``DataLoader`` or a
            :class:`~fulgurite.callbacks.representative_interpretation.reference.Reference`, which is read through the
            model only once however many images are interpreted over it.
        cut: the module whose output is ψ, as in ``model.named_modules()``; ``"auto"``: the last at which an
            interpretation says more than the predicted class (see ``auto_cut``); the table of cuts is in the result.
        boundaries: \|𝒬\|, how many boundaries are sampled, on segments from ψ(x) to images of other predicted classes;
            50 in the paper. Raised to 5 for each other predicted class, of 20 at most, so that 100 may be sampled; a
            note says so.
        delta: δ, how many images of another class to tolerate; raised to τ, those inside with all of 𝒬, which is also
            the default and the paper's choice.
        exact: take the optimum, proven by integer programming, in place of the greedy algorithm's choice; ``gap`` tells
            how far the latter was from it.
        maps: ``"channel"``, the paper's heat maps, or ``"elementwise"``, which add up to the planes' values.
        labels: (N,) true classes of the reference images, only for what is reported.
        logits: from the model's output to logits (B, C), where it gives something else. A ``Reference`` is read anew
            for another function, and a lambda written in the call is another one each time: give it a name.
        batch_size: images that go through the model together; a ``Reference`` has its own.
        most_bytes: the reference's feature maps are kept in memory up to this size, and else computed anew in every
            pass; a ``Reference`` has its own.
        seed: of everything random; the same seed gives the same result.

    Returns:
        The interpretation. Without an image of another class, one without planes that covers everything.

    Raises:
        ValueError: no floating images of one shape, a value that is not finite, a model without logits, a bad option.
        CutError: no such cut (with the names that there are), or the model cannot be cut there.

    Warns:
        DegenerateCutWarning: the net behind the cut that was asked for is affine, or no cut says more than the
            predicted class.
        UserWarning: the reference has a single predicted class.

    Example:
        >>> import torch
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> found = interpret(net, images[0], images, cut="auto", seed=0)
        >>> found.cut, found.purity, found.certificate, net.training
        ('1', 1.0, 1.0, True)
    """
    options = Options(boundaries=boundaries, delta=delta, exact=exact, maps=maps, seed=seed)
    with looking_into(model):
        images = as_reference(reference, labels=labels, batch_size=batch_size, most_bytes=most_bytes, seed=seed)
        image = _one(x, images)
        choice = cut_of(model, images, cut, options=options, logits=logits)
        features, scores = answers(choice.split, image[None], what="x, as image")
        anchor = Anchor(image, features[0], int(scores.argmax()))
        (found,) = interpret_anchors(images, choice.split, [anchor], options)
        alone = found.class_size == len(images)
        warn_if_degenerate(model, images, choice, alone=alone, logits=logits, stacklevel=3)
        notes = found.notes
        if not alone and not choice.rows and found.coverage > MOST_COVERAGE:
            notes += (
                f"it covers {found.coverage:.1%} of its predicted class and says little more than that: an earlier "
                "cut, or cut='auto', may say more",
            )
        return replace(found, cuts=choice.rows, notes=notes)


def _one(x: object, reference: Reference) -> Tensor:
    shape = reference.images.shape[1:]
    if not isinstance(x, Tensor) or x.shape not in (shape, (1, *shape)):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"got x {got}; expected one image {tuple(shape)}, as the reference's are")
    return checked_images(x.reshape(1, *shape), "x")[0]
