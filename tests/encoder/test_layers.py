"""What layers compute together on a GPU is what each computes alone."""

import pytest
import torch

from bertorch.encoder.layers import Linear, one_product, side_by_side
from tests.closeness import DOUBLE, assert_close


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_one_product_is_that_of_each_layer(count, bias):
    layers = [Linear(6, 4, bias, dtype=torch.float64) for _ in range(count)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    results = []
    for outs in ([layer(x) for layer in layers], one_product(layers, x)):
        total = sum((out * (place + 1)).square().sum() for place, out in enumerate(outs))
        results.append([*outs, *torch.autograd.grad(total, [x, *parameters])])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, DOUBLE)


def test_a_gpu_takes_one_product():
    layers = [Linear(6, 4, device="meta") for _ in range(3)]
    assert {out._base.shape for out in side_by_side(layers, torch.empty(5, 6, device="meta"))} == {(5, 12)}
