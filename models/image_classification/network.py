"""Networks that classify images, by name: two small CNNs of our own, torchvision's and timm's."""

from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torchvision.models
from torch import nn

from fulgurite.models.image_classification.weights import (
    adapt_head,
    adapt_stem,
    downloading,
    find_weights,
    load_weights,
)
from fulgurite.plugins.registry import nearest

_TIMM = "timm/"
_WIDTHS = (12, 24, 48)
_GRID = 7  # side of the last feature map: that of a 28 × 28 image after two poolings


def small_cnn(num_classes: int, *, in_channels: int = 1) -> nn.Sequential:
    """Build a convolutional network whose head is not linear: three stages and two fully connected layers.

    The stages have 12, 24 and 48 channels; each convolution is 3 × 3 and followed by batch normalisation and ReLU:
    ``stage1`` has one and ends in a 2 × 2 max-pooling, ``stage2`` has two, ``stage3`` has two and ends in averages over
    a 7 × 7 grid, which for 28 × 28 images are those of 2 × 2. The head is 2352 → 256 → C with a ReLU: 0.6 million
    parameters. Everything is piecewise linear, and each stage can be cut behind.

    The last pooling averages, because the maximum of a dark background's equal values has no one gradient: behind
    ``stage1`` and ``stage2`` there would be boundaries whose plane another image's direction does not confirm.

    Args:
        num_classes: C.
        in_channels: of the images, which may have any size from 2 × 2 on.

    Shape:
        (B, in_channels, H, W) → (B, C).

    Example:
        >>> import torch
        >>> network = small_cnn(10)
        >>> network(torch.zeros(2, 1, 28, 28)).shape, sum(weight.numel() for weight in network.parameters())
        (torch.Size([2, 10]), 644238)
    """
    stages = _stages(in_channels)
    stages["stage3"].append(nn.AdaptiveAvgPool2d(_GRID))
    hidden = 256
    head = [nn.Flatten(), nn.Linear(_WIDTHS[2] * _GRID * _GRID, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]
    return nn.Sequential(OrderedDict(**stages, head=nn.Sequential(*head)))


def gap_cnn(num_classes: int, *, in_channels: int = 1) -> nn.Sequential:
    """Build the network of :func:`small_cnn` with another head: a global average and one linear layer.

    So end most recent CNNs. Behind ``stage3`` it is linear: C − 1 boundaries and no more lie between a class and the
    others, and what they say of an image is no more than its predicted class.

    Args:
        num_classes: C.
        in_channels: of the images, which may have any size from 2 × 2 on.

    Shape:
        (B, in_channels, H, W) → (B, C).

    Example:
        >>> import torch
        >>> network = gap_cnn(10)
        >>> network(torch.zeros(2, 1, 8, 8)).shape, sum(weight.numel() for weight in network.parameters())
        (torch.Size([2, 10]), 39790)
    """
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTHS[2], num_classes))
    return nn.Sequential(OrderedDict(**_stages(in_channels), head=head))


SMALL: dict[str, Callable[..., nn.Sequential]] = {"small_cnn": small_cnn, "gap_cnn": gap_cnn}


def build_network(backbone: str, *, num_classes: int, in_channels: int = 3, weights: str | None = None) -> nn.Module:
    """Build a classifier of images by its name.

    Weights fit any number of classes and channels: where the network has others than the weights, its last layer
    starts anew, and the filters of its first layer are averaged over their channels, such that an image whose channels
    are all the same gives what it gave.

    Args:
        backbone: ``small_cnn``, ``gap_cnn``, a classifier of torchvision (``resnet18``), or ``timm/`` and the name of
            one of timm's (``timm/resnet18``; timm is not installed with Fulgurite).
        num_classes: width of the output.
        in_channels: of the images.
        weights: where training begins: ``None`` at random; a file with the weights of such a network, or a checkpoint
            of a LightningModule around one; a name of torchvision's (``IMAGENET1K_V1``) or ``DEFAULT``, the best that
            torchvision or timm offers, both of which download it once.

    Raises:
        ValueError: an unknown name, weights of another network, or a file that holds none.
        ImportError: timm is asked for and not installed.

    Example:
        >>> build_network("shufflenet_v2_x0_5", num_classes=4, in_channels=1).fc
        Linear(in_features=1024, out_features=4, bias=True)
    """
    if in_channels < 1:
        raise ValueError(f"got in_channels={in_channels}; want at least 1")
    if num_classes < 1:
        raise ValueError(f"got num_classes={num_classes}; want at least 1")
    if backbone in SMALL:
        file = find_weights(weights, backbone=backbone, names=())
        network: nn.Module = SMALL[backbone](num_classes, in_channels=in_channels)
    elif backbone.startswith(_TIMM):
        timm, name = _timm(), backbone.removeprefix(_TIMM)
        # Other spellings of timm ("hf-hub:…") would build what a stranger's repository says.
        if ":" in name or not timm.is_model(name):
            raise ValueError(f"timm has no network {name!r}{nearest(name, timm.list_models())}")
        file = find_weights(weights, backbone=backbone, names=("DEFAULT",))
        sizes = {"num_classes": num_classes, "in_chans": in_channels}
        if weights is None or file is not None:
            network = timm.create_model(name, **sizes)
        else:
            with downloading(weights, backbone=backbone):
                network = timm.create_model(name, pretrained=True, **sizes)
    elif backbone in (known := torchvision.models.list_models(module=torchvision.models)):
        names = [entry.name for entry in torchvision.models.get_model_weights(backbone)]
        file = find_weights(weights, backbone=backbone, names=[*names, "DEFAULT"])
        network = _torchvision(backbone, None if file else weights, num_classes, in_channels)
    else:
        hint = nearest(backbone, [*SMALL, *known]) or "; choose small_cnn, gap_cnn, a torchvision name or timm/NAME"
        raise ValueError(f"no network {backbone!r}{hint}")
    if file is not None:
        load_weights(network, file)
    return network


def _torchvision(backbone: str, weights: str | None, num_classes: int, in_channels: int) -> nn.Module:
    options: dict[str, Any] = {}
    if backbone in ("googlenet", "inception_v3"):
        # Their second output, for training only, is switched off: logits alone come out in every mode.
        options = {"aux_logits": False, "init_weights": False, "transform_input": bool(weights) and in_channels == 3}
    if weights is None:
        network = torchvision.models.get_model(backbone, num_classes=num_classes, **options)
    else:
        with downloading(weights, backbone=backbone):
            network = torchvision.models.get_model(backbone, weights=weights, **options)
        adapt_head(network, num_classes)
    adapt_stem(network, in_channels, keep=weights is not None)
    return network


def _stages(in_channels: int) -> dict[str, nn.Sequential]:
    first, second, third = _WIDTHS
    return {
        "stage1": nn.Sequential(*_layer(in_channels, first), nn.MaxPool2d(2)),
        "stage2": nn.Sequential(*_layer(first, second), *_layer(second, second)),
        "stage3": nn.Sequential(*_layer(second, third), *_layer(third, third)),
    }


def _layer(before: int, after: int) -> list[nn.Module]:
    # No bias: the normalisation takes it away again.
    return [nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def _timm() -> ModuleType:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ImportError(
            f"networks named timm/… need timm, which is not installed ({error}); run: pip install timm"
        ) from error
