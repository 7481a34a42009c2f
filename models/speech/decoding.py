"""Greedy decoding of connectionist temporal classification."""

import torch
from torch import Tensor


def ctc_greedy_decode(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> list[list[int]]:
    r"""The likeliest class of each frame, repeats merged and blanks dropped: best-path decoding.

    Graves et al., *Connectionist temporal classification*, ICML 2006,
    `doi:10.1145/1143844.1143891 <https://doi.org/10.1145/1143844.1143891>`__. With :math:`π_t = \arg\max_k p_t(k)` and
    :math:`\mathcal{B}` the map that merges runs of equal classes and then drops the blanks,

    .. math:: \hat{y} = \mathcal{B}(π_1 … π_T), \quad \text{e.g. } \mathcal{B}(aa␣ab) = aab.

    Args:
        logits: (B, T, C) scores of each class, or their logarithms; only their order matters.
        lengths: (B,) how many frames of each row are real.
        blank: the class that stands for no symbol.

    Returns:
        For each row the classes that were said.

    Raises:
        ValueError: shapes that do not fit together; a length beyond T; no such blank.

    Example:
        >>> import torch
        >>> from fulgurite.models.speech import ctc_greedy_decode
        >>> path = torch.tensor([[1, 1, 0, 1, 2, 2]])
        >>> ctc_greedy_decode(torch.nn.functional.one_hot(path), torch.tensor([6]))
        [[1, 1, 2]]
    """
    if logits.dim() != 3 or lengths.shape != logits.shape[:1]:
        raise ValueError(
            f"got logits {tuple(logits.shape)} and lengths {tuple(lengths.shape)}; expected (B, T, C), (B,)"
        )
    if not 0 <= blank < logits.shape[2]:
        raise ValueError(f"blank is {blank}; it must be one of the {logits.shape[2]} classes")
    frames = lengths.tolist()
    if frames and not 0 <= min(frames) <= max(frames) <= logits.shape[1]:
        raise ValueError(
            f"lengths run from {min(frames)} to {max(frames)}; expected 0 to {logits.shape[1]}, the frames"
        )
    paths = logits.argmax(-1).cpu()
    merged = (torch.unique_consecutive(path[:length]) for path, length in zip(paths, frames, strict=True))
    return [classes[classes != blank].tolist() for classes in merged]
