"""bertorch: fine-tune BERT-family encoders with scripts that read top to bottom."""

import gc

__version__ = "0.1.0"

# The two large libraries make a great many objects, which stay: looking for garbage among them again and again would slow
# down every start.
_collected = gc.isenabled()
gc.disable()
try:
    import torch  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401
finally:
    gc.freeze()
    if _collected:
        gc.enable()
