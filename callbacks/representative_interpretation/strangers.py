"""Which images of other classes the segments run to, on which boundaries are looked for."""

import torch
from torch import Tensor

_MANY = 20  # rival classes; with more, each cannot have its share


def draw_strangers(
    predicted: Tensor,
    logits: Tensor,
    *,
    label: int,
    count: int,
    generator: torch.Generator,
    at_least: int = 5,
) -> Tensor:
    """Draw reference images of other predicted classes, without replacement and stratified by class.

    Every other class that is there gives ``at_least`` images (all, if it has fewer), and the rest is drawn from all
    that are left: a boundary with a rare class is not missed for want of a segment towards it. Beyond 20 other
    classes half of the images come from the strongest rivals, those with the highest mean logit over the
    images of class ``label``, and half from all others.

    Args:
        predicted: the classes that the network gives the reference images, (N,).
        logits: their logits, (N, C).
        label: the class c whose boundaries are sought.
        count: how many to draw; raised to ``at_least`` for each other class that is there (for 20 of them at most).
        generator: private source of random numbers, on the CPU.
        at_least: images of each other class.

    Returns:
        Indices in ascending order, on the device of ``predicted``. If there are fewer strangers than wanted, all of
        them; if there are none, an empty tensor.

    Raises:
        ValueError: shapes that do not fit together, or a count below 1.

    Example:
        >>> predicted = torch.tensor([0] * 50 + [1] * 50 + [2] * 3)
        >>> drawn = draw_strangers(predicted, torch.zeros(103, 3), label=0, count=10, generator=torch.Generator())
        >>> predicted[drawn].bincount().tolist()
        [0, 7, 3]
    """
    if predicted.ndim != 1 or logits.ndim != 2 or len(predicted) != len(logits):
        raise ValueError(
            f"got predicted {tuple(predicted.shape)} and logits {tuple(logits.shape)}; expected (N,) and (N, C)"
        )
    if count < 1 or at_least < 0:
        raise ValueError(f"got count={count}, at_least={at_least}; expected a count from 1 on and at_least from 0 on")
    classes = predicted.cpu()
    strangers = (classes != label).nonzero()[:, 0]
    rivals = classes[strangers].unique()
    count = max(count, at_least * min(len(rivals), _MANY))
    if len(strangers) <= count:
        return strangers.to(predicted.device)
    if len(rivals) > _MANY:
        rivals = _strongest(classes, logits.detach().cpu(), label, rivals)[: count // (2 * max(1, at_least))]
    shuffled = strangers[torch.randperm(len(strangers), generator=generator)]
    taken = torch.zeros(len(shuffled), dtype=torch.bool)
    for rival in rivals.tolist():
        taken[(classes[shuffled] == rival).nonzero()[:at_least, 0]] = True
    rest = (~taken).nonzero()[: count - int(taken.sum()), 0]  # already in random order
    taken[rest] = True
    return shuffled[taken].sort().values.to(predicted.device)


def _strongest(classes: Tensor, logits: Tensor, label: int, rivals: Tensor) -> Tensor:
    own = logits[classes == label]
    mean = (own if len(own) else logits).double().mean(dim=0)
    return rivals[mean[rivals].argsort(descending=True, stable=True)]
