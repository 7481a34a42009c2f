import pickle

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.segmentation_data import distinct_colours
from fulgurite.data.segmentation_transforms import segmentation_transform

SIDE = st.integers(1, 20)


@given(
    size=st.tuples(SIDE, SIDE),
    crop=st.tuples(SIDE, SIDE),
    low=st.floats(0.1, 1),
    high=st.floats(1, 3),
    ignore=st.sampled_from([255, 11, 1000]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_crops_have_their_size_and_masks_no_new_classes(size, crop, low, high, ignore, seed):
    torch.manual_seed(seed)
    mask = torch.randint(0, 4, size)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    change = segmentation_transform(
        scale=(low, high),
        crop_size=crop,
        flip=0.5,
        photometric=True,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        ignore_index=ignore,
    )
    changed, classes = pickle.loads(pickle.dumps(change))(image, mask)
    assert (changed.shape, classes.shape) == ((3, *crop), crop)
    assert type(changed) is type(classes) is torch.Tensor
    assert set(classes.unique().tolist()) <= {*mask.unique().tolist(), ignore}


def test_nothing_is_altered_but_the_scale_unless_asked():
    image, mask = torch.randint(0, 256, (3, 6, 9), dtype=torch.uint8), torch.randint(0, 4, (6, 9))
    changed, classes = segmentation_transform(mean=[0.5] * 3, std=[0.25] * 3, ignore_index=None)(image, mask)
    torch.testing.assert_close(changed, (image / 255 - 0.5) / 0.25)
    assert torch.equal(classes, mask)
    changed, classes = segmentation_transform(size=(4, 5), mean=[0.0] * 3, std=[1.0] * 3, ignore_index=None)(
        image, mask
    )
    assert (changed.shape, classes.shape) == ((3, 4, 5), (4, 5))


def test_colours_differ_and_begin_as_those_of_voc():
    assert len(distinct_colours(200).unique(dim=0)) == 200
    assert distinct_colours(2, background="none").tolist() == [[128, 0, 0], [0, 128, 0]]
    assert distinct_colours(21)[20].tolist() == [0, 64, 128]
