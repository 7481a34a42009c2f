import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.dynamic_gnn.window import trailing_mean


@given(seed=st.integers(0, 10_000), first=st.integers(0, 9), steps=st.integers(0, 80), window=st.integers(1, 45))
@settings(deadline=None, max_examples=60)
def test_mean_of_the_last_frames_of_any_run(seed, first, steps, window):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(first + steps, 2, 3, generator=generator, dtype=torch.float64)
    every = [frames[max(0, t - window + 1) : t + 1].mean(0) for t in range(first, first + steps)]
    expected = torch.stack(every) if every else frames.new_zeros(0, 2, 3)
    kept = frames[max(0, first - window + 1) :]
    torch.testing.assert_close(trailing_mean(kept, window, steps), expected, rtol=0, atol=1e-13)


def test_gradcheck():
    frames = torch.randn(40, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for window in (1, 3, 50):
        assert torch.autograd.gradcheck(lambda x, w=window: trailing_mean(x, w, 40), frames)
    assert torch.autograd.gradcheck(lambda x: trailing_mean(x, 3, 38), frames)
