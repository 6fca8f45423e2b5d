"""torch's AdamW, without the wrappers that load torch's compiler: a second of CPU time at every start.

torch wraps the methods of its optimizers to keep its compiler away from them, and imports the compiler for it
(`python benchmarks/startup.py` measures the start, `--imports` what is loaded). Nothing here is ever compiled.
"""

import inspect

import torch


class AdamW(torch.optim.AdamW):
    """torch's, step for step."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
