"""Residual networks without their classifier: four maps of an image, for segmentation and detection."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d
from typing_extensions import override

from fulgurite.models.image_classification.weights import (
    adapt_stem,
    downloading,
    find_weights,
    put_weights,
    read_weights,
)
from fulgurite.plugins.registry import nearest

BackboneNorm = Literal["batch", "frozen"]

_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """A residual network up to its last map; its children are named as torchvision's are.

    Args:
        stem: ``conv1``, ``bn1``, ``relu`` and ``maxpool``.
        layers: ``layer1`` to ``layer4``.

    Attributes:
        out_channels: width of each layer's map, ``{"layer1": …}``.

    Shape:
        (B, in_channels, H, W) → an ordered dict of four maps (B, out_channels[layer], H / stride, W / stride), where
        stride is that of the layer; sizes that do not divide are rounded up.

    Example:
        >>> import torch
        >>> maps = build_backbone("small_resnet")(torch.zeros(1, 3, 64, 96))
        >>> {layer: tuple(values.shape[1:]) for layer, values in maps.items()}
        {'layer1': (32, 16, 24), 'layer2': (64, 8, 12), 'layer3': (128, 4, 6), 'layer4': (256, 2, 3)}
    """

    conv1: nn.Module

    def __init__(self, stem: Mapping[str, nn.Module], layers: Mapping[str, nn.Sequential]) -> None:
        super().__init__()
        for name, module in (*stem.items(), *layers.items()):
            self.add_module(name, module)
        self.out_channels = {name: _width(self.get_submodule(name)) for name in _LAYERS}

    @override
    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Give the four maps of images."""
        maps = OrderedDict()
        for name, module in self.named_children():
            x = module(x)
            if name in _LAYERS:
                maps[name] = x
        return maps


def build_backbone(
    name: str,
    *,
    weights: str | None = None,
    in_channels: int = 3,
    output_stride: int = 32,
    norm: BackboneNorm = "batch",
) -> Backbone:
    """Build a backbone by its name.

    ========================  ==========  ============  ======  =====================================================
    name                      parameters  widths        stride  what it is
    ========================  ==========  ============  ======  =====================================================
    ``small_resnet``          1.2 M       32 … 256      32      one residual block a layer
    ``tiny_resnet``           0.2 M       16, 32, 64,   8       the same for images of 16 to 64 pixels, which the stem
                                          96                    leaves in full size
    ``flat_cnn``              0.01 M      32            1       two 3 × 3 convolutions, then three 1 × 1: a pixel
                                                                sees 5 × 5 neighbours and no more
    ``resnet18`` …            11 M …      64 … 512 or   32      torchvision's, ResNeXt and wide ones too
                                          256 … 2048
    ========================  ==========  ============  ======  =====================================================

    Args:
        name: of the network.
        weights: where training begins: ``None`` at random; a file with the network's weights, with or without its
            classifier, or a checkpoint of a LightningModule around it; a name of torchvision's (``IMAGENET1K_V1``,
            ``DEFAULT``), which is downloaded once.
        in_channels: of the images; published filters are averaged where it is not 3.
        output_stride: the stride of ``layer4`` at most. Where the network's own is larger, its last layers keep their
            size and their 3 × 3 convolutions are dilated instead, so that each pixel that the strided network
            gives is given as it was, and those between too.
        norm: ``batch``, or ``frozen``: the statistics and scales of all normalisations stay as they are loaded, as is
            usual where a batch is too small for them.

    Raises:
        ValueError: an unknown name; a stride that the network cannot have; weights of another network.

    Example:
        >>> backbone = build_backbone("resnet50", output_stride=8)
        >>> backbone.out_channels["layer4"], backbone.layer4[1].conv2.dilation
        (2048, (4, 4))
    """
    if in_channels < 1:
        raise ValueError(f"got in_channels={in_channels}; want at least 1")
    if norm not in ("batch", "frozen"):
        raise ValueError(f"got norm={norm!r}; choose from batch, frozen")
    if name in _OWN:
        file = find_weights(weights, backbone=name, names=())
        stem, layers = _OWN[name](in_channels)
        backbone = Backbone(stem, layers)
        _initialise(backbone)
    else:
        known = _residual_networks()
        if name not in known:
            names = [*_OWN, *known]
            hint = nearest(name, names) or f"; choose from {', '.join(names)}"
            raise ValueError(f"no backbone {name!r}{hint}")
        published = [entry.name for entry in torchvision.models.get_model_weights(name)]
        file = find_weights(weights, backbone=name, names=[*published, "DEFAULT"])
        backbone = _torchvision(name, weights if file is None else None)
    _dilate(backbone, output_stride, name)
    if file is not None:
        _load(backbone, file, in_channels)
    else:
        adapt_stem(backbone, in_channels, keep=weights is not None)
    return _freeze_norms(backbone) if norm == "frozen" else backbone


def _small(
    in_channels: int, widths: tuple[int, ...], stem_stride: int
) -> tuple[dict[str, nn.Module], dict[str, nn.Sequential]]:
    first = widths[0]
    stem: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, first, 3, stride=stem_stride, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(first),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1) if stem_stride > 1 else nn.Identity(),
    }
    layers, before = {}, first
    for name, width in zip(_LAYERS, widths, strict=True):
        stride = 1 if name == "layer1" else 2
        shortcut = None
        if stride > 1 or width != before:
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        layers[name] = nn.Sequential(BasicBlock(before, width, stride, shortcut))
        before = width
    return stem, layers


def _flat(in_channels: int, width: int = 32) -> tuple[dict[str, nn.Module], dict[str, nn.Sequential]]:
    def convolution(before: int, side: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, width, side, padding=side // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]

    first = convolution(in_channels, 3)
    stem = dict(zip(("conv1", "bn1", "relu"), first, strict=True))
    return stem, {name: nn.Sequential(*convolution(width, 3 if name == "layer1" else 1)) for name in _LAYERS}


_OWN = {
    "small_resnet": lambda in_channels: _small(in_channels, (32, 64, 128, 256), 2),
    "tiny_resnet": lambda in_channels: _small(in_channels, (16, 32, 64, 96), 1),
    "flat_cnn": _flat,
}


def _residual_networks() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(("resnet", "resnext", "wide_resnet"))]


def _torchvision(name: str, weights: str | None) -> Backbone:
    if weights is None:
        network = torchvision.models.get_model(name)
    else:
        with downloading(weights, backbone=name):
            network = torchvision.models.get_model(name, weights=weights)
    assert isinstance(network, ResNet)
    stem = {child: network.get_submodule(child) for child in ("conv1", "bn1", "relu", "maxpool")}
    return Backbone(stem, {child: getattr(network, child) for child in _LAYERS})


def _initialise(backbone: Backbone) -> None:
    for module in backbone.modules():  # as torchvision's ResNet does
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _width(layer: nn.Module) -> int:
    return [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features


def _dilate(backbone: Backbone, output_stride: int, name: str) -> None:
    """Let strides beyond the wanted one become dilations of all that follows."""
    stride = 1
    for child in ("conv1", "maxpool"):
        module = getattr(backbone, child, None)
        step = getattr(module, "stride", 1)
        stride *= step if isinstance(step, int) else step[0]
    if output_stride not in (1, 2, 4, 8, 16, 32) or output_stride < stride:
        raise ValueError(
            f"got output_stride={output_stride} for {name}, whose stem has stride {stride}; "
            f"choose from {', '.join(str(2**power) for power in range(6) if 2**power >= stride)}"
        )
    rate = 1
    for name in _LAYERS:
        convolutions = [
            (path, module)
            for path, module in backbone.get_submodule(name).named_modules()
            if isinstance(module, nn.Conv2d)
        ]
        step = max(module.stride[0] for _, module in convolutions)
        dilated = stride * step > output_stride
        stride *= 1 if dilated else step
        for path, module in convolutions:
            if module.kernel_size[0] > 1:
                module.dilation = (rate, rate)
                module.padding = (rate * (module.kernel_size[0] // 2),) * 2
            if dilated and module.stride[0] > 1:
                module.stride = (1, 1)
                if "downsample" not in path:  # what follows on the main path reads every step-th pixel
                    rate *= step


def _load(backbone: Backbone, file: Path, in_channels: int) -> None:
    wanted = backbone.state_dict()
    found = {key: value for key, value in read_weights(file, wanted).items() if not key.startswith("fc.")}
    # A backbone with frozen normalisations was saved without these counts.
    found |= {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked") and key not in found}
    stem = found.get("conv1.weight")
    if stem is not None and stem.ndim == 4:
        adapt_stem(backbone, stem.shape[1], keep=False)
    put_weights(backbone, found, file)
    adapt_stem(backbone, in_channels, keep=True)


def _freeze_norms(module: nn.Module) -> Backbone:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            state = child.state_dict()
            state.pop("num_batches_tracked", None)
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)
    return module  # type: ignore[return-value]
