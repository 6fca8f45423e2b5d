"""Attention over packed tokens on pretended CUDA tensors, a line of JSON for each case.

    python -m tests.encoder.packed_worker

``error``: what failed, or None; ``findings``: what would wait for a GPU or mix devices; ``operators``: those of attention;
``out`` and ``gradients``: shape, type and device of each.
"""

import itertools
import json
import os
import sys

from tests import pretended_cuda  # before torch: it may load a library that torch needs

import torch  # isort: skip
from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

from bertorch.encoder import TokenBatch
from bertorch.encoder.attention import _proved, attention, choose_backend

LENGTHS = [33, 7, 7, 1]
HEADS = 4
CASES = list(
    itertools.product(((7, 5), (8, 0)), ("float32", "float16", "bfloat16"), (20, 64), (False, True), (False, True))
)  # capability of the GPU, type, size of a head, whether queries are those of first tokens alone, whether it trains


def described(x: torch.Tensor) -> list:
    return [list(x.shape), str(x.dtype).removeprefix("torch."), str(x.device)]


def main() -> None:
    with_gradients = pretended_cuda.LIBRARY in os.environ
    zeros = torch.zeros(sum(LENGTHS), dtype=torch.long)
    on_host = TokenBatch.from_lengths(zeros, zeros, LENGTHS)
    pretended_cuda.pretend()
    watch = pretended_cuda.watch
    for capability, dtype, head_size, first_only, training in CASES:
        torch.cuda.get_device_capability = lambda device=None, capability=capability: capability
        _proved.cache_clear()
        watch.clear()
        result = {"error": None, "gradients": []}
        rows = [len(LENGTHS) if first_only else sum(LENGTHS), sum(LENGTHS), sum(LENGTHS)]
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(training and with_gradients):
                batch = on_host.to(torch.device("cuda"))
                leaves = [
                    torch.empty(n, HEADS, head_size, dtype=getattr(torch, dtype), device="cuda").requires_grad_(
                        training and with_gradients
                    )
                    for n in rows
                ]
                if choose_backend(leaves[0]) != "packed":
                    result["error"] = "padded is chosen"
                else:
                    watch.phase = "forward"
                    with watch:
                        out = attention(*leaves, batch, 0.1 if training else 0.0)
                        gradients = torch.autograd.grad(out.sum(), leaves) if out.requires_grad else []
                    result.update(out=described(out), gradients=[described(one) for one in gradients])
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
        watch.phase = None
        operators = [name for _, name in watch.operators if "attention" in name]
        print(json.dumps({**result, "operators": operators, "findings": list(map(str, watch.findings))}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # torch's own end would look for the GPU


if __name__ == "__main__":
    main()
