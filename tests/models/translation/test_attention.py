import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fulgurite.models.translation import AdditiveAttention


def naive(attention: AdditiveAttention, query: np.ndarray, memory: np.ndarray, mask: np.ndarray):
    """Equations (5) and (6) and the alignment model of the paper, one number at a time."""
    w, u, bias, v = (
        parameter.detach().double().numpy()
        for parameter in (attention.query.weight, attention.key.weight, attention.key.bias, attention.score.weight[0])
    )
    context = np.zeros((*query.shape[:2], memory.shape[2]))
    weights = np.zeros((*query.shape[:2], memory.shape[1]))
    for b in range(len(query)):
        for t in range(query.shape[1]):
            scores = {
                s: v @ np.tanh(w @ query[b, t] + u @ memory[b, s] + bias) for s in range(memory.shape[1]) if mask[b, s]
            }
            total = sum(np.exp(score) for score in scores.values())
            for s, score in scores.items():
                weights[b, t, s] = np.exp(score) / total
                context[b, t] += weights[b, t, s] * memory[b, s]
    return context, weights


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), t=st.integers(1, 4), s=st.integers(1, 5))
def test_equals_the_equations(seed: int, t: int, s: int):
    torch.manual_seed(seed)
    attention = AdditiveAttention(6, 4, attention_size=5).double()
    query, memory = torch.randn(3, t, 6).double(), torch.randn(3, s, 4).double()
    mask = torch.arange(s) < torch.randint(1, s + 1, (3, 1))
    context, weights = attention(query, memory, mask)
    expected_context, expected_weights = naive(attention, query.numpy(), memory.numpy(), mask.numpy())
    np.testing.assert_allclose(context.detach(), expected_context, atol=1e-12)
    np.testing.assert_allclose(weights.detach(), expected_weights, atol=1e-12)


def test_weighs_as_torch_does_when_scores_are_given_as_a_mask():
    """With zero queries and keys, torch's own attention takes its scores from the additive mask alone."""
    torch.manual_seed(0)
    attention = AdditiveAttention(6, 4, attention_size=5)
    query, memory = torch.randn(2, 3, 6), torch.randn(2, 4, 4)
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    hidden = torch.tanh(attention.query(query)[:, :, None] + attention.key(memory)[:, None])
    scores = attention.score(hidden)[..., 0].masked_fill(~mask[:, None], -torch.inf)
    expected = functional.scaled_dot_product_attention(
        torch.zeros(2, 3, 4), torch.zeros(2, 4, 4), memory, attn_mask=scores
    )
    torch.testing.assert_close(attention(query, memory, mask)[0], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3)])
def test_shapes(shape):
    batch, t, s = shape
    context, weights = AdditiveAttention(6, 4, attention_size=5)(
        torch.zeros(batch, t, 6), torch.zeros(batch, s, 4), torch.ones(batch, s, dtype=torch.bool)
    )
    assert context.shape == (batch, t, 4)
    assert weights.shape == (batch, t, s)
