"""Compare what was computed in two ways, with bounds that follow the size of the values."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

SINGLE = 2e-5
"""What single precision may change, as a part of the largest value.

It rounds every result by up to 2^-24 = 6e-8 of itself. A sum of n products errs by about sqrt(n) times that, of the length
of its terms: 1.7e-6 for n = 768. Which way it errs is decided by the order of the sum, and so by the processor, the number
of threads and the place in the batch. Layers behind each other add up their errors, and norms keep them in proportion to
the states: 12 layers of 4 products each come to sqrt(48) x 1.7e-6 = 1.2e-5. The bound follows the largest value, not each
value for itself, since what is left of terms that cancel each other keeps their error. A mistake changes far more.
"""
DOUBLE = 1e-12  # the same in double precision, whose rounding is 2^-53: 2e-5 x 2^-29 = 4e-14, and a margin


def assert_close(found, expected, part: float = SINGLE, of=None, name: str = "values") -> None:
    """No value differs by more than ``part`` of the largest expected one; infinities stand in the same places.

    Args:
        found: a tensor, an array, a list or a number.
        expected: of the same shape.
        part: ``SINGLE``, ``DOUBLE``, or what the test has a reason for.
        of: a value to take the part of, where the expected ones are what cancelling leaves of larger ones.
        name: what stands in the message.
    """
    found, expected = (_array(values) for values in (found, expected))
    assert found.shape == expected.shape, f"{name}: shape {found.shape} where {expected.shape} is expected"
    finite = np.isfinite(expected)
    assert np.array_equal(found[~finite], expected[~finite], equal_nan=True), f"{name}: infinities in other places"
    if finite.any():
        largest = float(np.abs(expected[finite]).max() if of is None else of)
        difference = float(np.abs(found[finite] - expected[finite]).max())
        assert difference <= part * largest, (
            f"{name}: {difference:.2e} apart, {difference / (largest or 1):.2e} of {largest:.2e}"
        )


def _array(values) -> np.ndarray:
    return (values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)).astype(np.float64)


def assert_same_course(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], updates: int, rate: float) -> None:
    """Weights after ``updates`` of Adam from the same start, which rounding alone may tell apart.

    Adam divides a gradient by its own size. Where the gradient is nothing but rounding, the update is as long as any other,
    in a direction of chance: no bound holds for every weight. So all but one in a thousand are within a hundredth of one
    update. Biases of keys are left out: softmax does not feel them, and all their gradient is rounding.
    """
    assert found.keys() == expected.keys()
    felt = [name for name in expected if not name.endswith("key.bias")]
    apart = torch.cat([(found[name] - expected[name]).abs().flatten() for name in felt])
    assert (apart > rate / 100).double().mean() < 1e-3
    assert apart.max() <= 2 * updates * rate
