import pytest
import torch
from torch.utils.data import DataLoader

from fulgurite.data.labelled import LabelledData, LabelledImages


class Made(LabelledData):
    def __init__(self, **options):
        super().__init__(
            **{
                "batch_size": 8,
                "val_share": 0.2,
                "test_share": 0.1,
                "normalize": True,
                "seed": 0,
                "num_workers": 0,
                **options,
            }
        )
        self.loaded = 0

    def load(self):
        self.loaded += 1
        features = torch.arange(300.0).reshape(100, 3)
        features[:, 2] = 7
        return features, torch.arange(100) % 4


def test_batches_hold_the_rows_of_their_part():
    data = Made(normalize=False)
    seen = [torch.cat([labels for _, labels in loader]) for loader in (data.train_dataloader(), data.val_dataloader())]
    assert [len(labels) for labels in seen] == [68, 20]  # of 25 rows a class 5 and 3 are held out
    assert data.loaded == 1
    for features, labels in data.test_dataloader():
        assert ((features[:, 0] / 3) % 4 == labels).all()


def test_training_rows_are_shuffled_by_the_global_generator_and_others_are_not():
    data = Made()
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(torch.cat([features[:, 0] for features, _ in data.train_dataloader()]).tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    first, again = (torch.cat([features for features, _ in data.val_dataloader()]) for _ in range(2))
    assert torch.equal(first, again)


def test_features_are_standardised_by_the_training_part():
    data = Made()
    train = data.part("train").features
    torch.testing.assert_close(train.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(dim=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    assert data.part("val").features[:, 0].mean().abs() > 1e-3


def test_images_are_standardised_by_one_mean_and_spread():
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[..., 0] = 0  # a border without any spread
    data = LabelledImages(batch_size=4, val_share=0.2, test_share=0.1, normalize=True, seed=0, num_workers=0)
    train = images[:10]
    torch.testing.assert_close(data.standardize(images, train), (images - train.mean()) / train.std())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_give_the_same_batches():
    here, there = (Made(num_workers=workers).val_dataloader() for workers in (0, 1))
    assert isinstance(there, DataLoader)
    for mine, theirs in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_bad_options():
    with pytest.raises(ValueError, match="batch_size=0"):
        Made(batch_size=0)
    with pytest.raises(ValueError, match=r"val_share=0.6 and test_share=0.5"):
        Made(val_share=0.6, test_share=0.5)
    with pytest.raises(ValueError, match=r"no val part; val_share is 0: raise it"):
        Made(val_share=0).val_dataloader()
