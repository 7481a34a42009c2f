"""Training, validation and test parts that stay the same whatever else changes."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_by_hash(keys: Iterable[str], *, val_share: float, test_share: float) -> dict[str, Split]:
    """Say for each key in which part it is, by a hash of the key alone.

    A key is in the same part in every run, on every machine, and whichever other keys there are; only where a part
    would stay empty does it get the key with the lowest hash.

    Args:
        keys: what must not be torn apart, e.g. a message whose translations all belong to one part.
        val_share: share of the keys for validation, in [0, 1); 0 leaves it empty.
        test_share: share for testing, likewise; the rest is for training.

    Raises:
        ValueError: shares that leave nothing to train on, or too few keys.

    Example:
        >>> split_by_hash(["a", "b", "c", "d"], val_share=0.3, test_share=0)
        {'a': 'val', 'b': 'train', 'c': 'val', 'd': 'train'}
    """
    if not (val_share >= 0 and test_share >= 0 and val_share + test_share < 1):
        raise ValueError(
            f"got val_share={val_share} and test_share={test_share}; want at least 0 each and less than 1 together"
        )
    hashed = {key: _unit_hash(key) for key in keys}
    parts: dict[str, Split] = {
        key: "val" if place < val_share else "test" if place < val_share + test_share else "train"
        for key, place in hashed.items()
    }
    wanted: list[Split] = ["train"]
    wanted += ["val"] if val_share else []
    wanted += ["test"] if test_share else []
    if len(hashed) < len(wanted):
        raise ValueError(
            f"got {len(hashed)} different texts, too few for {' and '.join(wanted)}; "
            "give more data, or set val_share or test_share to 0"
        )
    for part in wanted:
        sizes = Counter(parts.values())
        if not sizes[part]:
            # From a part that can spare one; the lowest hash, so that the choice is the same everywhere.
            spare = [key for key, other in parts.items() if sizes[other] > 1]
            parts[min(spare, key=hashed.__getitem__)] = part
    return parts


def _unit_hash(key: str) -> float:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
