"""Where in an image the planes of an interpretation look: maps of each plane, and one heat map of all of them."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fulgurite.callbacks.representative_interpretation.planes import Planes

Maps = Literal["channel", "elementwise"]

_ELEMENTS = 2**22  # features or values of upsampled maps at a time: 32 MB in float64


def plane_maps(planes: Planes, features: Tensor, *, maps: Maps) -> Tensor:
    """How much each place of a feature map speaks for x's side of each plane.

    After P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, "Finding Representative Interpretations on
    Convolutional Neural Networks", https://arxiv.org/abs/2108.06384, whose maps weigh whole channels. The planes'
    weights come from x alone and are used on any image. With s = 1 where x is on a plane's positive side, −1 elsewhere,

        channel:      M_h(ψ) = s Σ_k a_{h,k} ψ_k,    a_{h,k} the spatial mean of w_{h,k},
        elementwise:  M_h(ψ) = s Σ_k w_{h,k} ⊙ ψ_k,  which adds up to s wᵀψ, the plane's value without b.

    Args:
        planes: P planes over (K, H, W) features.
        features: ψ of B images at the same cut, (B, K, H, W), any float dtype.
        maps: which of the two.

    Returns:
        (B, P, H, W) in the dtype of the planes; positive speaks for x's side, negative against it.

    Raises:
        ValueError: features of another shape than the planes', an unknown kind of map.

    Example:
        >>> planes = Planes(
        ...     weight=torch.tensor([[[[1.0, 3.0]]]]), bias=torch.tensor([-5.0]), point=torch.ones(1, 1, 1, 2),
        ...     rival=torch.tensor([1]), grade=("exact",), residual=torch.zeros(1), positive=torch.tensor([True]),
        ...     label=0,
        ... )  # fmt: skip
        >>> features = torch.tensor([[[[4.0, 1.0]]]])
        >>> plane_maps(planes, features, maps="elementwise").tolist(), planes.value(features).tolist()
        ([[[[4.0, 3.0]]]], [[2.0]])
        >>> plane_maps(planes, features, maps="channel").tolist()
        [[[[8.0, 2.0]]]]
    """
    if maps not in get_args(Maps):
        raise ValueError(f"got maps={maps!r}; expected one of {', '.join(get_args(Maps))}")
    if features.ndim != 4 or features.shape[1:] != planes.weight.shape[1:]:
        raise ValueError(
            f"got features of shape {tuple(features.shape)}; expected (B, "
            f"{', '.join(map(str, planes.weight.shape[1:]))}): take them at the cut where the planes were found"
        )
    sign = torch.where(planes.positive, 1, -1).to(planes.weight)
    weight = planes.weight * sign[:, None, None, None]
    features = features.detach().to(weight)
    if maps == "channel":
        return torch.einsum("pk,bkhw->bphw", weight.mean(dim=(2, 3)), features)
    return torch.einsum("pkhw,bkhw->bphw", weight, features)


def heatmaps(planes: Planes, features: Tensor, *, maps: Maps, size: tuple[int, int], signed: bool = False) -> Tensor:
    """One heat map an image: the mean over planes of their maps, each brought to 0..1.

    As in the paper (see :func:`plane_maps`), heat = mean over h of minmax(upsample(ReLU(M_h))), with bilinear
    upsampling and the least and largest value of each image and plane. The mean is of numbers, not of colours.

    Args:
        planes: P planes over (K, H, W) features.
        features: ψ of B images at the same cut, (B, K, H, W), finite.
        maps: which maps of the planes.
        size: height and width of the images, in pixels; no multiple of H and W is needed.
        signed: show also what speaks against x's side: no ReLU, and each map divided by its largest magnitude.

    Returns:
        (B, height, width) in [0, 1], with ``signed`` in [-1, 1]. A map without contrast counts as zero; without planes
        all is zero.

    Raises:
        ValueError: features of another shape than the planes' or not finite, an unknown kind of map, a size below 1.

    Example:
        >>> planes = Planes(
        ...     weight=torch.tensor([[[[1.0, -1.0]]]]), bias=torch.zeros(1), point=torch.ones(1, 1, 1, 2),
        ...     rival=torch.tensor([1]), grade=("exact",), residual=torch.zeros(1), positive=torch.tensor([True]),
        ...     label=0,
        ... )  # fmt: skip
        >>> heatmaps(planes, torch.ones(1, 1, 1, 2), maps="elementwise", size=(1, 4)).tolist()
        [[[1.0, 0.75, 0.25, 0.0]]]
        >>> heatmaps(planes, torch.ones(1, 1, 1, 2), maps="elementwise", size=(1, 4), signed=True).tolist()
        [[[1.0, 0.5, -0.5, -1.0]]]
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"got size={tuple(size)}; expected height and width of the images in pixels, 1 or more")
    if not torch.isfinite(features).all():
        raise ValueError("got features that are not finite; look at the images and at the network's dtype")
    heat = planes.weight.new_zeros(len(features), *size)
    if not len(planes):
        return heat
    most = max(1, _ELEMENTS // max(len(planes) * size[0] * size[1], planes.weight.numel() // len(planes)))
    for start in range(0, len(features), most):
        part = slice(start, start + most)
        found = plane_maps(planes, features[part], maps=maps)
        shown = interpolate(found if signed else found.relu(), size=size, mode="bilinear", align_corners=False)
        heat[part] = _scaled(shown, signed=signed).mean(dim=1)
    return heat


def _scaled(maps: Tensor, *, signed: bool) -> Tensor:
    """Each (H, W) map between its least and its largest value, or divided by its largest magnitude."""
    magnitude = maps.abs().amax(dim=(2, 3), keepdim=True)
    low = torch.zeros_like(magnitude) if signed else maps.amin(dim=(2, 3), keepdim=True)
    span = magnitude if signed else magnitude - low
    # Upsampling a map without contrast leaves differences of a rounding error; they are not to be blown up to 0..1.
    flat = span <= 16 * torch.finfo(maps.dtype).eps * magnitude
    return torch.where(flat, 0, (maps - low) / torch.where(flat, 1, span))
