"""bertorch: fine-tune BERT-family encoders with scripts that read top to bottom."""

from bertorch.start_up import interrupt_quietly, keep_few_kernels, let_waiting_threads_sleep, without_collecting

__version__ = "0.1.0"

let_waiting_threads_sleep()
keep_few_kernels()
interrupt_quietly()
with without_collecting():
    import torch  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401


def load_predictor(directory, **settings):
    """Load a trained model that predicts: ``load_predictor("checkpoint")(["a text", "another"])``.

    See ``bertorch.tasks.prediction.load_predictor``, which is imported here: ``import bertorch`` alone loads no task.
    """
    from bertorch.tasks.prediction import load_predictor as load

    return load(directory, **settings)
