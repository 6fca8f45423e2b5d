"""torch's AdamW, without the wrappers that load torch's compiler, which takes a second of CPU time at every start.

torch wraps the methods of its optimizers to keep its compiler away from them, and imports the compiler to do so
(`python benchmarks/startup.py` measures the start-up time; with `--imports`, what is loaded). These methods are never
compiled.
"""

import inspect

import torch


class AdamW(torch.optim.AdamW):
    """The same steps as torch's AdamW."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
