"""The bounds follow the values."""

import numpy as np
import pytest
import torch

from tests.closeness import DOUBLE, assert_close, assert_same_course


@pytest.mark.parametrize("size", [1e-3, 1.0, 17.0, 1e4])
def test_a_bound_follows_the_largest_value(size):
    expected = np.array([[size, 0.0], [-size / 3, 1e-9]])
    assert_close(torch.tensor(expected + 1e-5 * size), expected)
    for wrong in (expected + 3e-5 * size, expected * [1, np.nan], expected[:1]):
        with pytest.raises(AssertionError):
            assert_close(wrong, expected)
    with pytest.raises(AssertionError):
        assert_close(expected + 1e-5 * size, expected, DOUBLE)
    assert_close(expected + 1e-3 * size, expected, of=100 * size)


def test_infinities_stand_in_their_places():
    assert_close([1.0, -np.inf, np.inf], [1.0, -np.inf, np.inf])
    for wrong in ([1.0, np.inf, np.inf], [1.0, -5.0, np.inf], [np.inf, -np.inf, np.inf]):
        with pytest.raises(AssertionError):
            assert_close(wrong, [1.0, -np.inf, np.inf])


def test_updates_of_adam_may_differ_where_there_is_no_gradient():
    expected = {"a": torch.zeros(3000), "b": torch.ones(2000)}
    found = {name: tensor.clone() for name, tensor in expected.items()}
    found["a"][7] += 1e-3
    assert_same_course(found, expected, updates=1, rate=1e-3)
    for change in (5e-3 * torch.ones(1), 2e-5 * torch.ones(2000)):
        other = {**found, "b": found["b"] + torch.nn.functional.pad(change, (0, 2000 - len(change)))}
        with pytest.raises(AssertionError):
            assert_same_course(other, expected, updates=1, rate=1e-3)
