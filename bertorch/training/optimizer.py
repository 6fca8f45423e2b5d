"""AdamW (Loshchilov & Hutter 2017) with BERT's rule for weight decay."""

import torch
from torch import Tensor, nn


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float, rates: dict[str, float] | None = None
) -> torch.optim.AdamW:
    """The fused optimizer; weights decay, biases and layer norms do not (Devlin et al. 2018, A.2).

    Args:
        model: its parameters with ``requires_grad``.
        learning_rate: the highest of the schedule.
        weight_decay: of the parameters that decay.
        rates: another highest learning rate for the parts of the model with these names.
    """
    norms = {
        id(parameter) for module in model.modules() if isinstance(module, nn.LayerNorm) for parameter in module.parameters()
    }
    rates = rates or {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(learning_rate, weight_decay): [], (learning_rate, 0.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if name.split(".")[-1] == "bias" or id(parameter) in norms else weight_decay
            rate = rates.get(name.split(".")[0], learning_rate)
            groups.setdefault((rate, decay), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": decay, "highest": rate}
        for (rate, decay), parameters in groups.items()
        if parameters
    ]
    return torch.optim.AdamW(listed, lr=learning_rate, fused=True)


def scale_and_clip(parameters: list[nn.Parameter], scale: float, max_norm: float) -> Tensor | None:
    """Multiply all gradients by ``scale``, then clip their norm to ``max_norm`` (0: no clipping), in one pass over them.

    The clipping is that of ``torch.nn.utils.clip_grad_norm_``. Returns the norm before clipping, where it was needed.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    if not max_norm:
        if scale != 1.0:
            torch._foreach_mul_(gradients, scale)
        return None
    norm = torch.nn.utils.get_total_norm(gradients) * scale
    torch._foreach_mul_(gradients, scale * torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
