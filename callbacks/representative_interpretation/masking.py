"""How well a heat map picks the pixels that a prediction rests on: keep only the hottest, and predict again."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def keep_top(images: Tensor, heat: Tensor, share: float, *, fill: float | Tensor = 0.0) -> Tensor:
    """Keep the hottest pixels of each image and fill the others.

    Args:
        images: (B, …, H, W), any dtype.
        heat: (B, H, W), one map an image; all channels of a pixel go together.
        share: of the pixels to keep, 0..1. Exactly ``round(share * H * W)`` are kept (Python's ``round``, a half to
            the even number); of equally hot ones those that come first, row by row.
        fill: what the others become: a number, or a tensor that broadcasts against (…, H, W), such as a mean image.

    Returns:
        New images of the same shape, dtype and device.

    Raises:
        ValueError: maps that do not fit the images, NaN in a map, a share outside 0..1.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> keep_top(images, torch.tensor([[[0.1, 0.9], [0.9, 0.2]]]), 0.5).tolist()
        [[[[0.0, 2.0], [3.0, 0.0]]]]
    """
    if images.ndim < 3 or heat.shape != (images.shape[0], *images.shape[-2:]):
        raise ValueError(
            f"got maps of shape {tuple(heat.shape)} for images {tuple(images.shape)}; expected a (H, W) map for each: "
            "pass size=images.shape[-2:] when making them"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"got share={share}; expected the share of the pixels to keep, 0 to 1")
    if heat.isnan().any():
        raise ValueError("got NaN in a map; expected numbers, which can be put in order")
    flat = heat.flatten(1)
    hottest = flat.argsort(dim=1, descending=True, stable=True)[:, : round(share * flat.shape[1])]
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, hottest, True).view_as(heat).to(images.device)
    kept = kept.reshape(len(images), *(1,) * (images.ndim - 3), *images.shape[-2:])
    return torch.where(kept, images, torch.as_tensor(fill, dtype=images.dtype, device=images.device))


def average_drop(full: Tensor, kept: Tensor, label: int | Tensor) -> float:
    """The mean share of its confidence that a network loses when it sees the kept pixels alone.

    AD = mean over images e of max(0, Y_c(e) − Y_c(e′)) / Y_c(e), with Y_c the softmax probability of class c and e′ the
    image with the other pixels filled; lower is better. From A. Chattopadhyay et al., "Grad-CAM++",
    https://arxiv.org/abs/1710.11063, as used in https://arxiv.org/abs/2108.06384.

    Args:
        full: logits of the whole images, (B, C), B ≥ 1, C ≥ 2.
        kept: logits of the images of which some pixels are kept, (B, C).
        label: c, of all images or (B,) of each.

    Returns:
        0..1. It is computed in float64 from log Y / (1 − Y), so that no Y is too near to 0 or 1.

    Raises:
        ValueError: logits that do not fit or are not finite, no images, a class that does not exist.

    Example:
        >>> round(average_drop(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), 0), 3)
        0.316
    """
    before, after = _log_odds(full, kept, label)
    whole = 50  # from here on, log(1 + eᵗ) is t in float64
    log_ratio = softplus(-before, threshold=whole) - softplus(-after, threshold=whole)
    return float((-torch.expm1(log_ratio)).clamp_min(0).mean())


def average_increase(full: Tensor, kept: Tensor, label: int | Tensor) -> float:
    """The share of images in which a network grows more confident when it sees the kept pixels alone.

    AI = share of images e with Y_c(e′) > Y_c(e); higher is better. Origin, arguments and errors as in
    :func:`average_drop`.

    Example:
        >>> average_increase(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]]), 0)
        0.5
    """
    before, after = _log_odds(full, kept, label)
    return float((after > before).double().mean())


def _log_odds(full: Tensor, kept: Tensor, label: int | Tensor) -> tuple[Tensor, Tensor]:
    if full.ndim != 2 or full.shape != kept.shape or full.shape[1] < 2:
        raise ValueError(
            f"got logits of shapes {tuple(full.shape)} and {tuple(kept.shape)}; expected (B, C) of both, C at least 2 "
            "(a single logit z is (0, z))"
        )
    if not len(full):
        raise ValueError("got no images; a mean over none means nothing, so leave such a set out")
    if not (full.isfinite().all() and kept.isfinite().all()):
        raise ValueError("got logits that are not finite; look at the images, the fill and the network's dtype")
    labels = torch.as_tensor(label, dtype=torch.long).cpu()
    if labels.shape not in ((), (len(full),)) or not bool(((labels >= 0) & (labels < full.shape[1])).all()):
        raise ValueError(f"got label={label}; expected a class from 0 to {full.shape[1] - 1}, or one for each image")
    labels = labels.expand(len(full))
    # On the CPU, since some devices have no float64.
    return _log_odds_of(full.detach().cpu().double(), labels), _log_odds_of(kept.detach().cpu().double(), labels)


def _log_odds_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The log odds of class c: log Y / (1 − Y) = z_c − log Σ_{j≠c} exp z_j."""
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return logits.gather(1, labels[:, None])[:, 0] - others
