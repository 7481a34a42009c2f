"""What a net says of images: feature maps at a cut, and logits that the head behind it stands by."""

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.margin import chunks

_FULL = (torch.float32, torch.float64)
_NAMED = 5  # images in a message


def answers(split: Split, images: Tensor, *, what: str, first: int = 0) -> tuple[Tensor, Tensor]:
    """Feature maps ψ of images and the logits that decide their class, from one pass.

    Boundaries are looked for in the head in full precision. A net in half precision rounds so coarsely that it may
    prefer another class than that head does for the same feature maps, which would put an image beyond its own
    boundaries; so there the logits are the head's.

    Args:
        split: of the net.
        images: (B, …), wherever they are and of any floating type.
        what: they are, for the message.
        first: the number of the first of them, for the message.

    Returns:
        (B, K, H, W) in the net's type, and (B, C).

    Raises:
        ValueError: logits that are not finite; which images have them.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2)).bfloat16()
        >>> images = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
        >>> maps, logits = answers(split(net, "0", images), images, what="the images")
        >>> maps.dtype, logits.dtype
        (torch.bfloat16, torch.float64)
    """
    features, logits = split.predict(images)
    good = logits.isfinite().all(dim=1)
    if not {features.dtype, logits.dtype} <= set(_FULL):
        with torch.no_grad():
            logits = torch.cat([split.head(features[part].to(split.dtype)) for part in chunks(features)])
    good &= logits.isfinite().all(dim=1)
    if not bool(good.all()):
        bad = [first + row for row in good.logical_not().nonzero().flatten().tolist()]
        named = ", ".join(map(str, bad[:_NAMED])) + (", …" if len(bad) > _NAMED else "")
        raise ValueError(
            f"got logits that are not finite (NaN or infinite) for {what} {named}; expected finite ones; leave these "
            "images out, or look where the model overflows or divides by zero"
        )
    return features, logits
