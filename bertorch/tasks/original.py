"""Read checkpoints of the original bertorch (github.com/zejunwang1/bertorch), each a ``pytorch_model.bin``.

- run_classifier.py: ``encoder.*`` with pooler, ``classifier``; beside it a ``config.json`` whose ``id2label`` is a list.
- run_ner.py: ``encoder.*`` with pooler, ``classifier``, with --use_crf ``crf.*``. It has one tag more than the label
  file: [PAD], the last. Its chain begins with [CLS] and ends with [SEP], both tagged O.
- run_sentencebert.py, run_simcse.py, run_batchneg.py: ``bert.*`` with pooler, with --output_emb_size ``emb_reduce_linear``;
  the first also has ``classifier``, over two vectors, their difference and perhaps their product.

All but run_classifier.py wrote no ``config.json``.
"""

from pathlib import Path

from torch import Tensor

from bertorch.encoder.weights import find_weights, read_weights
from bertorch.tasks.entities.tags import parse_tag

REDUCTION = ("emb_reduce_linear.weight", "emb_reduce_linear.bias")
CLASSIFIER = ("classifier.weight", "classifier.bias")
WORDS = "embeddings.word_embeddings.weight"


def original_task(tensors: dict[str, Tensor], labels: list[str] | None = None) -> str | None:
    """The task of a checkpoint of the original, as named in ``bertorch.json``; None for a checkpoint of another tool.

    A text classifier and a tagger without CRF have the same tensor names; if ``labels`` are tags, it is a tagger.
    """
    if f"encoder.{WORDS}" in tensors and "classifier.weight" in tensors:
        tags = bool(labels) and all(parse_tag(label) for label in labels)
        return "entities" if "crf.transitions" in tensors or tags else "classification"
    if f"bert.{WORDS}" not in tensors or "bert.pooler.dense.weight" not in tensors:
        return None
    own = {name for name in tensors if not name.startswith("bert.")}
    width = len(tensors[REDUCTION[0]]) if REDUCTION[0] in own else tensors[f"bert.{WORDS}"].shape[1]
    if "classifier.weight" in own and tensors["classifier.weight"].shape[-1] in (3 * width, 4 * width):
        own -= set(CLASSIFIER)
    return "sentence_vectors" if own <= set(REDUCTION) else None


def original_weights(directory: str | Path, weights: str | Path | None = None) -> dict[str, Tensor] | None:
    """The tensors of ``weights``, or of ``directory``, if it is a checkpoint of the original bertorch; else None."""
    path = Path(weights or directory)
    path = find_weights(path) if path.is_dir() else path
    if path is None or path.suffix != ".bin" or not path.is_file():
        return None
    tensors = read_weights(path)
    return tensors if original_task(tensors) is not None else None
