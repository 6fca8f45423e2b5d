"""AdamW (Loshchilov & Hutter 2017) and LAMB (You et al. 2019), with BERT's rule for weight decay."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bertorch.encoder import Encoder
from bertorch.errors import UserError
from bertorch.training.adamw_without_compiler import AdamW
from bertorch.training.tricks import has_own_layers

OPTIMIZERS = ("adamw", "lamb")


def make_optimizer(
    name: str,
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    rates: dict[str, float] | None = None,
    layer_decay: float = 1.0,
    epsilon: float | None = None,
    betas: Sequence[float] | None = None,
) -> torch.optim.Optimizer:
    """Make the optimizer. Weights decay; biases and layer norms do not (Devlin et al. 2018, A.2).

    Args:
        name: ``adamw`` (torch's fused AdamW) or ``lamb``.
        model: its parameters with ``requires_grad`` are trained.
        learning_rate: the highest rate of the schedule.
        weight_decay: for the parameters that decay.
        rates: name of a part of the model -> its own highest learning rate.
        layer_decay: multiplies the rate once for the top layer of the encoder, and once more for each layer below, down to
            the embeddings (Howard & Ruder 2018, section 3.2); pooler and head have the full rate.
        epsilon, betas: added to the root of the second moment, and decay rates of the moments; None: the optimizer's own.

    Raises:
        UserError: ``layer_decay`` is set and the layers share their weights.
    """
    norms = {
        id(parameter) for module in model.modules() if isinstance(module, nn.LayerNorm) for parameter in module.parameters()
    }
    rates = rates or {}
    factors = _layer_factors(model.encoder, layer_decay) if layer_decay != 1.0 else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(learning_rate, True): [], (learning_rate, False): []}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not parameter_name.endswith("bias") and id(parameter) not in norms
            rate = rates.get(parameter_name.split(".")[0], learning_rate) * factors.get(id(parameter), 1.0)
            groups.setdefault((rate, decays), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "highest": rate, "decays": decays}
        for (rate, decays), parameters in groups.items()
        if parameters
    ]
    own = {"eps": epsilon, "betas": betas and tuple(betas)}
    own = {key: given for key, given in own.items() if given is not None}
    return AdamW(listed, lr=learning_rate, fused=True, **own) if name == "adamw" else Lamb(listed, lr=learning_rate, **own)


def _layer_factors(encoder: Encoder, decay: float) -> dict[int, float]:
    """``id`` of each parameter below the pooler -> ``decay`` to the power of its layer's distance from the head."""
    if not has_own_layers(encoder):
        raise UserError(f"--layer_decay {decay}: the layers of this {encoder.config.model_type} share their weights")
    modules = [encoder.embeddings, *encoder.blocks]
    return {
        id(parameter): decay ** (len(modules) - layer)
        for layer, module in enumerate(modules)
        for parameter in module.parameters()
    }


class Lamb(torch.optim.Optimizer):
    """Adam with each parameter's step scaled to the norm of its weights, for batches of thousands.

    You et al. 2019, Algorithm 2. As in the authors' code for BERT, the ratio of norms is not clipped, and groups with
    ``decays: False`` (biases, layer norms) take plain Adam steps.

    Args:
        params: parameter groups, with ``weight_decay`` and ``decays``.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the square root of the second moment.
    """

    # A GradScaler then always calls ``step`` and sets ``found_inf``, 1 if a gradient has overflowed: nothing may change. For
    # other optimizers, the host waits to know whether to call them.
    _step_supports_amp_scaling = True

    def __init__(self, params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "decays": True})

    @torch.no_grad()
    def step(self) -> None:
        overflow = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["step"], state["m"], state["v"] = 0, torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1 if overflow is None else 1 - overflow.double()  # then a tensor on the device
            beta1, beta2 = group["betas"]
            steps = [self.state[parameter]["step"] for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            m, v = ([self.state[parameter][name] for parameter in parameters] for name in "mv")
            changing = [*parameters, *m, *v]
            before = [] if overflow is None else [value.clone() for value in changing]
            torch._foreach_lerp_(m, gradients, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, gradients, gradients, 1 - beta2)
            below = torch._foreach_div(v, [1 - beta2**step for step in steps])
            torch._foreach_sqrt_(below)
            torch._foreach_add_(below, group["eps"])
            updates = torch._foreach_div(torch._foreach_div(m, [1 - beta1**step for step in steps]), below)
            if group["decays"]:
                torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
                weights, lengths = (torch.stack(torch._foreach_norm(values)) for values in (parameters, updates))
                ratios = torch.where((weights > 0) & (lengths > 0), weights / lengths, 1.0)
                torch._foreach_mul_(updates, list(ratios.unbind()))
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            for value, old in zip(changing, before, strict=False):
                value.copy_(torch.where(overflow > 0, old, value))


def scale_and_clip(parameters: list[nn.Parameter], scale: float, max_norm: float) -> Tensor | None:
    """Multiply all gradients by ``scale``, then clip their norm to ``max_norm`` (0: no clipping), in one pass over them.

    Clips like ``torch.nn.utils.clip_grad_norm_``. Returns the norm before clipping; None without clipping or gradients.
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
