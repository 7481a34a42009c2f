import sys

import pytest
import torch

from fulgurite.data.scikit_sample import ScikitSample

datasets = pytest.importorskip("sklearn.datasets")
SIZES = {"breast_cancer": (569, 30, 2), "digits": (1797, 64, 10), "iris": (150, 4, 3), "wine": (178, 13, 3)}


@pytest.mark.parametrize("name", SIZES)
def test_the_tasks_are_scikit_learns(name):
    data = ScikitSample(name=name, normalize=False, batch_size=10)
    parts = [data.part(part) for part in ("train", "val", "test")]
    rows, features, classes = SIZES[name]
    assert sum(len(part) for part in parts) == rows
    assert all(part.features.shape[1] == features for part in parts)
    assert all(part.labels.unique().tolist() == list(range(classes)) for part in parts)
    wanted = torch.from_numpy(getattr(datasets, f"load_{name}")(return_X_y=True)[0]).float()
    got = torch.cat([part.features for part in parts])
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_features_are_standardised():
    train = ScikitSample(name="digits").part("train").features
    assert train.mean(dim=0).abs().max() < 1e-5
    assert not train.isnan().any(), "pixels that never change have no spread"


def test_an_unknown_task_and_a_missing_package(monkeypatch):
    with pytest.raises(ValueError, match="name='moons'; choose from breast_cancer, digits, iris, wine"):
        ScikitSample(name="moons")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'scikit-learn.*pip install "fulgurite\[data\]"'):
        ScikitSample().setup()
