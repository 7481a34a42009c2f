"""Weights for a segmentor of mmsegmentation, or a part of one, from a file that is read as data."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fulgurite.models.image_classification.weights import read_weights


def load_part(model: nn.Module, path: str | Path, *, module: str = "", prefix: str = "") -> None:
    """Load weights into a model, or a part of it; what the file does not have starts anew, and is told.

    A new context layer in a pretrained network is such a part, and so is a classifier of other classes.

    Args:
        model: the segmentor.
        path: what ``torch.save`` wrote of a ``state_dict``, alone or in a checkpoint. It is read with
            ``weights_only``: no code in it is run.
        module: the part, a dotted path of attributes; empty for the whole.
        prefix: that the part has in the file's names.

    Raises:
        ValueError: no such file, none of weights, or none of whose weights fits.

    Example:
        >>> import tempfile, torch
        >>> model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.eye(2), "bias": torch.ones(2)}, f"{folder}/part.pt")
        ...     load_part(model, f"{folder}/part.pt", module="backbone")
        >>> model["backbone"].bias.tolist()
        [1.0, 1.0]
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"weights: there is no file {path}; give the path of one, nothing is downloaded")
    part = _part(model, module, file)
    wanted = part.state_dict()
    found = read_weights(file, wanted)
    if prefix:
        start = prefix.removesuffix(".") + "."
        found = {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}
    fitting: dict[str, Tensor] = {
        key: value for key, value in found.items() if key in wanted and value.shape == wanted[key].shape
    }
    if not fitting:
        raise ValueError(
            f"{file}: none of its {len(found)} weights fits {module or 'the model'}; name the one they fit"
        )
    part.load_state_dict(fitting, strict=False)
    anew = sorted({key.rpartition(".")[0] for key in wanted if key not in fitting})
    if anew:
        shown = ", ".join(anew[:3]) + (f" and {len(anew) - 3} more" if len(anew) > 3 else "")
        rank_zero_info(
            f"{file}: holds {len(fitting)} of {len(wanted)} weights of {module or 'the model'}; new: {shown}"
        )


def _part(model: nn.Module, module: str, file: Path) -> nn.Module:
    try:
        return model.get_submodule(module)
    except AttributeError as error:
        raise ValueError(f"{file}: the model has no part {module!r} for these weights") from error
