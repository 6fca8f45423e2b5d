"""Masks of dropout: as many zeros as asked for, independent of one another, and torch's scale."""

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import nn

from bertorch.encoder.dropout import Dropout, keep_mask


@pytest.mark.parametrize("dropout", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_places(dropout):
    torch.manual_seed(0)
    dropped = int((keep_mask(400_003, dropout, torch.empty(0)) == 0).sum())
    assert binomtest(dropped, 400_003, dropout).pvalue > 1e-4


def test_places_of_one_draw_are_independent():
    """Four places come from one number: all 16 patterns of four occur as often as they should."""
    torch.manual_seed(1)
    kept = keep_mask(400_000, 0.25, torch.empty(0, dtype=torch.long)).view(-1, 4)
    patterns = (kept * torch.tensor([8, 4, 2, 1])).sum(dim=1).bincount(minlength=16).double()
    expected = torch.tensor([0.75 ** bin(p).count("1") * 0.25 ** (4 - bin(p).count("1")) for p in range(16)]) * len(kept)
    assert chisquare(patterns.numpy(), expected.double().numpy() * float(patterns.sum() / expected.sum())).pvalue > 1e-4
    assert torch.corrcoef(kept.double().T).fill_diagonal_(0).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_grows_and_the_gradient_follows(dtype):
    torch.manual_seed(2)
    x = torch.ones(57, 19, dtype=dtype, requires_grad=True)
    y = Dropout(0.2)(x)
    y.backward(torch.full_like(y, 3.0))
    scale = torch.tensor(1 / 0.8, dtype=dtype)
    assert y.dtype == dtype and set(y.unique().tolist()) == {0.0, scale.item()}
    assert torch.equal(x.grad, 3 * y.detach())
    again = Dropout(0.2)(x)
    assert not torch.equal(again, y)
    torch.manual_seed(2)
    assert torch.equal(Dropout(0.2)(x), y)


def test_nothing_is_dropped_outside_of_training():
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x or torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert isinstance(Dropout(0.5), nn.Dropout)  # what looks for dropout finds it
