"""Copies between host and GPU that do not make the host wait."""

import numpy as np
import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``. A copy from the host to a GPU goes through pinned memory, which nothing waits for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Fetch:
    """Tensors on their way to the host. From a GPU the copies start at once, and only ``arrays`` waits for them.

    Args:
        tensors: of any device; those of 16 bit become float32.
    """

    def __init__(self, *tensors: Tensor):
        tensors = [tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor for tensor in tensors]
        self._tensors = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
        device = next((tensor.device for tensor in tensors if tensor.device.type == "cuda"), None)
        self._copied = None if device is None else torch.cuda.current_stream(device).record_event()

    def arrays(self) -> list[np.ndarray]:
        """The values."""
        if self._copied is not None:
            self._copied.synchronize()
        return [tensor.numpy() for tensor in self._tensors]
