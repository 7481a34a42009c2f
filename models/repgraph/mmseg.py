"""RepGraph in mmsegmentation's registry: importing this module registers it; a second import changes nothing.

A config of mmengine loads it by ``custom_imports = dict(imports=["fulgurite.models.repgraph.mmseg"])`` and then names

- ``RepGraph2d``, the layer, as a plugin of a backbone (it enters *every* block of a stage) or anywhere in a model;
- ``RepGraphHead``, a decode head;
- ``RepGraphResNetV1c``, a backbone with one layer behind one stage;
- ``NonLocalSDPA2d``, the control.
"""

from typing import Any

import torch
from torch import Tensor

from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.mmcv_stand_in import import_mmseg
from fulgurite.models.repgraph.non_local import NonLocal2d

import_mmseg()

from mmseg.models.backbones import ResNetV1c  # noqa: E402
from mmseg.models.decode_heads.fcn_head import FCNHead  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402


class NonLocalSDPA2d(NonLocal2d):
    """The non-local control under a name of its own; mmcv has registered another ``NonLocal2d``."""

    _abbr_ = "nonlocal_sdpa"


class RepGraphHead(FCNHead):
    """A decode head with a RepGraph layer between its two convolutions, built as mmsegmentation's ``NLHead`` is.

    Convolution → :class:`~fulgurite.models.repgraph.layer.RepGraph2d` → convolution → with ``concat_input``, one more
    over its result beside the input → classifier.

    Args:
        inter_channels: C', the width at which nodes are compared.
        num_nodes: S.
        groups: groups of channels with nodes of their own.
        variant: ``bottleneck`` or ``simple``.
        tied: one embedding is query, key and value.
        init: where nodes start: ``spread``, ``grid3`` or ``zero``.
        global_nodes: g; adds g² cells of an average pooling to every pixel's nodes.
        offset_kernel: side of the convolution that gives the offsets.
        norm: of a bottleneck: ``batch``, ``group`` or ``none``.
        backend: ``auto``, ``bag``, ``triton`` or ``grid_sample``.
        kwargs: of ``FCNHead``: ``in_channels``, ``channels``, ``num_classes``, ``norm_cfg``, …

    Example:
        >>> head = RepGraphHead(in_channels=32, channels=16, num_classes=4, in_index=0, num_nodes=5)
        >>> head([torch.rand(2, 32, 8, 8)]).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        inter_channels: int | None = None,
        num_nodes: int = 9,
        groups: int = 1,
        variant: str = "bottleneck",
        tied: bool = True,
        init: str = "spread",
        global_nodes: int = 0,
        offset_kernel: int = 3,
        norm: str = "batch",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.repgraph = RepGraph2d(
            self.channels,
            inter_channels=inter_channels,
            num_nodes=num_nodes,
            groups=groups,
            variant=variant,  # type: ignore[arg-type]
            tied=tied,
            init=init,  # type: ignore[arg-type]
            global_nodes=global_nodes,
            offset_kernel=offset_kernel,
            norm=norm,  # type: ignore[arg-type]
            backend=backend,  # type: ignore[arg-type]
        )

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)
        output = self.convs[1](self.repgraph(self.convs[0](x)))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return output


class RepGraphResNetV1c(ResNetV1c):
    """mmsegmentation's ``ResNetV1c`` with one context layer behind one stage, as the stage's last element.

    A plugin enters every block of a stage, six times in a ResNet-50's third; this enters once, and the names of
    pretrained weights stay as they are.

    Args:
        context: config of the layer, ``{"type": "RepGraph2d", …}``; None: a ``RepGraph2d`` with its defaults.
        context_stage: 1 to 4, the number in ``layer3``.
        kwargs: of ``ResNetV1c``: ``depth``, ``strides``, ``dilations``, …

    Raises:
        ValueError: a stage that the network does not have.
    """

    def __init__(self, context: dict[str, Any] | None = None, context_stage: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= context_stage <= self.num_stages:
            raise ValueError(f"got context_stage={context_stage}; want 1 to {self.num_stages}")
        expansion = self.block.expansion
        width = expansion * kwargs.get("base_channels", 64) * 2 ** (context_stage - 1)
        config = {"type": "RepGraph2d"} if context is None else dict(context)
        getattr(self, f"layer{context_stage}").append(MODELS.build({**config, "in_channels": width}))


def register() -> None:
    """Enter the four into mmsegmentation's registry, unless they are there."""
    for kind in (RepGraph2d, NonLocalSDPA2d, RepGraphHead, RepGraphResNetV1c):
        if MODELS.module_dict.get(kind.__name__) is not kind:
            MODELS.register_module(module=kind, force=True)  # force: the module has been imported anew


register()
