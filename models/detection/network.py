"""torchvision's R-CNNs on a feature pyramid, with a context layer where it is wanted."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper
from typing_extensions import override

from fulgurite.models.backbone import Backbone, BackboneNorm, build_backbone
from fulgurite.models.repgraph.contexts import build_context
from fulgurite.models.repgraph.insert import insert_context

Kind = Literal["faster_rcnn", "mask_rcnn"]
Place = Literal["layer1", "layer2", "layer3", "layer4", "fpn"]

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_LEVELS = 5  # the four maps and one of half the last one's size
_GRID, _MASK_GRID = 7, 14  # sides of the maps that are cut out for a box, and for its mask
_PROBE = 64  # side of the empty image by which the strides are found out


class PyramidBackbone(nn.Module):
    """A backbone's four maps made into a feature pyramid, which torchvision's detectors read.

    T.-Y. Lin et al., `Feature Pyramid Networks for Object Detection <https://arxiv.org/abs/1612.03144>`_, 2017.

    Args:
        body: the backbone.
        out_channels: width of the pyramid.
        levels: for each of the pyramid's four maps, a layer that it goes through; ``None`` for none.

    Shape:
        (B, 3, H, W) → an ordered dict of five maps ``0`` … ``3`` and ``pool``.

    Example:
        >>> import torch
        >>> pyramid = PyramidBackbone(build_backbone("small_resnet"), out_channels=64)
        >>> [tuple(values.shape[1:]) for values in pyramid(torch.zeros(1, 3, 64, 64)).values()]
        [(64, 16, 16), (64, 8, 8), (64, 4, 4), (64, 2, 2), (64, 1, 1)]
    """

    def __init__(self, body: Backbone, *, out_channels: int, levels: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            [body.out_channels[layer] for layer in _LAYERS], out_channels, extra_blocks=LastLevelMaxPool()
        )
        self.contexts = None if levels is None else nn.ModuleList(levels)
        self.out_channels = out_channels

    @override
    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Give the pyramid of images."""
        maps = self.body(x)
        pyramid = self.fpn(OrderedDict((str(number), maps[layer]) for number, layer in enumerate(_LAYERS)))
        if self.contexts is not None:
            for number, context in enumerate(self.contexts):
                pyramid[str(number)] = context(pyramid[str(number)])
        return pyramid


def build_detector(
    num_classes: int,
    *,
    kind: Kind = "faster_rcnn",
    backbone: str = "small_resnet",
    weights: str | None = None,
    norm: BackboneNorm = "batch",
    trainable_layers: int = 5,
    context: str = "repgraph",
    context_options: Mapping[str, Any] | None = None,
    context_at: Sequence[Place] = ("layer3",),
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    pyramid_width: int = 256,
    head_width: int = 1024,
    proposals: int = 1000,
    samples: int = 512,
    detections: int = 100,
    score_threshold: float = 0.05,
) -> FasterRCNN:
    """Build a detector; see :class:`~fulgurite.models.detection.module.ObjectDetector` for the options.

    Returns:
        torchvision's detector, its ``backbone`` a :class:`PyramidBackbone`: in training, images and targets give a
        dictionary of losses, otherwise images give their detections.

    Raises:
        ValueError: an option out of range, or a name that is unknown.

    Example:
        >>> detector = build_detector(3, backbone="resnet18", trainable_layers=2)
        >>> [name for name, _ in detector.backbone.body.layer3.named_children()]
        ['0', '1', '2']
        >>> body = detector.backbone.body
        >>> body.layer3[2].offset.weight.requires_grad, body.conv1.weight.requires_grad
        (True, False)
    """
    sizes = (min_size,) if isinstance(min_size, int) else tuple(min_size)
    places = tuple(context_at)
    _check(num_classes, kind, places, sizes, max_size, anchor_sizes, aspect_ratios)
    for name, value in (
        ("pyramid_width", pyramid_width),
        ("head_width", head_width),
        ("proposals", proposals),
        ("samples", samples),
        ("detections", detections),
    ):
        if value < 1:
            raise ValueError(f"got {name}={value}; want at least 1")
    if not 0 <= score_threshold < 1:
        raise ValueError(f"got score_threshold={score_threshold}; want at least 0 and less than 1")
    body = build_backbone(backbone, weights=weights, norm=norm)
    freeze(body, trainable_layers)
    options = dict(context_options or {})
    levels = None
    if context == "none":
        build_context(context, 1, **options)  # says that it has no options
    else:
        # Put in after the freezing and after the norms were frozen: the new layers are for training, all of them.
        for place in places:
            if place != "fpn":
                insert_context(body, place, context, in_channels=body.out_channels[place], **options)
        if "fpn" in places:
            levels = [build_context(context, pyramid_width, **options) for _ in _LAYERS]
    strides = find_strides(body)
    pyramid = PyramidBackbone(body, out_channels=pyramid_width, levels=levels)
    shared: dict[str, Any] = {
        "min_size": sizes,
        "max_size": max_size,
        "rpn_anchor_generator": AnchorGenerator(
            tuple((size,) for size in anchor_sizes), (tuple(aspect_ratios),) * _LEVELS
        ),
        "rpn_pre_nms_top_n_train": 2 * proposals,
        "rpn_post_nms_top_n_train": 2 * proposals,
        "rpn_pre_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_test": proposals,
        "box_roi_pool": _pool(strides, _GRID),
        "box_head": TwoMLPHead(pyramid_width * _GRID**2, head_width),
        "box_predictor": FastRCNNPredictor(head_width, num_classes + 1),
        "box_batch_size_per_image": samples,
        "box_detections_per_img": detections,
        "box_score_thresh": score_threshold,
    }
    if kind == "faster_rcnn":
        return FasterRCNN(pyramid, **shared)
    return MaskRCNN(
        pyramid,
        mask_roi_pool=_pool(strides, _MASK_GRID),
        mask_head=MaskRCNNHeads(pyramid_width, (pyramid_width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(pyramid_width, pyramid_width, num_classes + 1),
        **shared,
    )


def freeze(body: Backbone, trainable_layers: int) -> None:
    """Keep all but the last layers of a backbone as they are.

    Args:
        body: the backbone.
        trainable_layers: how many of ``layer4``, ``layer3``, …, and the stem, in this order, are trained: 0 to 5.

    Raises:
        ValueError: another number.

    Example:
        >>> body = build_backbone("small_resnet")
        >>> freeze(body, 3)
        >>> body.layer1[0].conv1.weight.requires_grad, body.layer2[0].conv1.weight.requires_grad
        (False, True)
    """
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"got trainable_layers={trainable_layers}; want 0 to 5: of layer4, …, layer1 and the stem")
    trained = ("layer4", "layer3", "layer2", "layer1", "")[:trainable_layers]
    for name, child in body.named_children():
        child.requires_grad_((name if name in _LAYERS else "") in trained)


def find_strides(body: Backbone) -> tuple[int, ...]:
    """Give the stride of each of a backbone's four maps.

    Example:
        >>> find_strides(build_backbone("small_resnet"))
        (4, 8, 16, 32)
    """
    training = {module: module.training for module in body.modules()}
    weight = next(body.parameters())
    with torch.no_grad():
        maps = body.eval()(torch.zeros(1, 3, _PROBE, _PROBE, device=weight.device, dtype=weight.dtype))
    for module, was in training.items():
        module.training = was
    return tuple(_PROBE // maps[layer].shape[-1] for layer in _LAYERS)


def _pool(strides: Sequence[int], side: int) -> MultiScaleRoIAlign:
    # Left to itself the pooling tells its scales by the first batch that it sees, padding and all: in small images
    # they are then wrong, and others after a checkpoint than before.
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
    return pool


def _check(
    num_classes: int,
    kind: str,
    places: Sequence[str],
    sizes: Sequence[int],
    max_size: int,
    anchor_sizes: Sequence[int],
    aspect_ratios: Sequence[float],
) -> None:
    if num_classes < 1:
        raise ValueError(f"got num_classes={num_classes}; want at least 1, the background not counted")
    if kind not in get_args(Kind):
        raise ValueError(f"got kind={kind!r}; choose from {', '.join(get_args(Kind))}")
    for place in places:
        if place not in get_args(Place):
            raise ValueError(f"got context_at={list(places)}; choose from {', '.join(get_args(Place))}")
    if len(set(places)) < len(places):
        raise ValueError(f"got context_at={list(places)}; want each place once")
    if not sizes or min(sizes) < 1 or max(sizes) > max_size:
        raise ValueError(f"got min_size={list(sizes)} and max_size={max_size}; want 1 <= min_size <= max_size")
    if len(anchor_sizes) != _LEVELS or min(anchor_sizes) < 1:
        raise ValueError(f"got anchor_sizes={list(anchor_sizes)}; want {_LEVELS} positive sides, one a level")
    if not aspect_ratios or not min(aspect_ratios) > 0:
        raise ValueError(f"got aspect_ratios={list(aspect_ratios)}; want positive ratios of height to width")
