"""The two parts of a cut classifier, running: ψ before the cut and G behind it, in any precision."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fulgurite.callbacks.representative_interpretation.classifier import Classifier, agree, as_logits
from fulgurite.callbacks.representative_interpretation.replayed_cut import Capture, Replay
from fulgurite.callbacks.representative_interpretation.traced_cut import Place, Trace


class Parts(ABC):
    """What is common to both ways of cutting.

    Args:
        root: the classifier.
        behind: features to the classifier's answer; the classifier is its child ``root``.
        names: of the weights and buffers that ``behind`` uses.
    """

    method: Literal["fx", "replay"]

    def __init__(self, root: Classifier, behind: nn.Module, names: list[str]) -> None:
        self.root = root
        self.behind = behind
        self._names = names
        self._weights: dict[torch.dtype, dict[str, Tensor]] = {}

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps, of their own memory, and logits."""

    def features(self, images: Tensor) -> Tensor:
        """Feature maps alone, of their own memory."""
        return self.predict(images)[0]

    def head(self, features: Tensor) -> Tensor:
        """Logits of feature maps, through weights of their type."""
        if features.dtype not in self._weights:
            self._weights[features.dtype] = self._in(features.dtype)
        # A copy: in-place operations at the head's start would change the caller's maps, or fail on a leaf.
        answer = functional_call(self.behind, self._weights[features.dtype], (features.clone(),), tie_weights=False)
        return as_logits(answer, len(features))

    def _in(self, dtype: torch.dtype) -> dict[str, Tensor]:
        everything: dict[str, Tensor] = {}
        everything.update(self.behind.named_parameters(remove_duplicate=False))
        everything.update(self.behind.named_buffers(remove_duplicate=False))
        made: dict[int, Tensor] = {}  # weights that are shared stay shared
        for name in self._names:
            tensor = everything[name].detach()
            if tensor.is_inference():  # which no gradient can go past
                tensor = tensor.clone()
            made.setdefault(id(everything[name]), tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return {name: made[id(everything[name])] for name in self._names}


class TracedParts(Parts):
    """Each part runs alone, by the graph.

    Args:
        root: the classifier.
        traced: its graph.
        place: the cut.
    """

    method = "fx"

    def __init__(self, root: Classifier, traced: Trace, place: Place) -> None:
        behind = traced.behind(place)
        super().__init__(root, behind, behind.weights())
        self._before = traced.before(place)

    def features(self, images: Tensor) -> Tensor:
        """Feature maps alone: what is behind the cut does not run."""
        return self._before(images).clone()

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps and logits."""
        features = self._before(images)
        kept = features.clone()
        return kept, as_logits(self.behind(features), len(images))


class ReplayedParts(Parts):
    """The whole network runs, and a module's output is captured or replaced.

    Args:
        root: the classifier.
        name: the module's path in the network.
        carrier: (1, …) an image.
        alone: as in :class:`~fulgurite.callbacks.representative_interpretation.replayed_cut.Replay`.
    """

    method = "replay"
    behind: Replay

    def __init__(self, root: Classifier, name: str, carrier: Tensor, *, alone: bool) -> None:
        behind = Replay(root, name, carrier, alone=alone)
        names = [name for name, _ in behind.named_parameters(remove_duplicate=False)]
        super().__init__(root, behind, names + [name for name, _ in behind.named_buffers(remove_duplicate=False)])
        self._capture = Capture(root, name)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps and logits."""
        captured, answer = self._capture(images)
        assert len(captured) == 1, f"the module ran {len(captured)} times"
        return captured[0], as_logits(answer, len(images))


def replayed_parts(root: Classifier, name: str, images: Tensor, expected: Tensor) -> ReplayedParts | str:
    """Parts by replay that are verified over two different carriers, or why the module is no cut.

    Args:
        root: the classifier.
        name: the module's path.
        images: (B, …) ready.
        expected: (B, C) their logits.
    """
    captured, _ = Capture(root, name)(images.clone())
    if len(captured) != 1:
        return (
            f"its module runs {len(captured)} times"
            if captured
            else "its module does not run, or not where hooks see it"
        )
    features = captured[0]
    if not isinstance(features, Tensor):
        return f"its module gives a {type(features).__name__}; expected a tensor (B, K, H, W)"
    if features.ndim != 4 or len(features) != len(images) or not features.is_floating_point():
        return f"its output has shape {tuple(features.shape)}; expected (B, K, H, W)"
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images[:1].shape, generator=generator).to(images)
    carriers = (images[:1].clone(), images[:1].std() * noise + images[:1].mean())
    failure = ""
    for alone in (True, False):
        try:
            both = [ReplayedParts(root, name, carrier, alone=alone) for carrier in carriers]
            if all(agree(parts.head(features), expected) for parts in both):
                return both[0]
            failure = "replayed over another image its maps give other logits"
        except Exception as error:  # whatever other code does with as many maps as it did not expect
            failure = f"replaying fails ({type(error).__name__}: {(str(error) or '-').splitlines()[0]})"
    return f"something else from before it reaches the logits, as a skip connection does: {failure}"
