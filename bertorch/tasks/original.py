"""Checkpoints of the original bertorch (github.com/zejunwang1/bertorch), each a ``pytorch_model.bin``, read as ours.

- run_classifier.py: ``encoder.*`` with pooler, ``classifier``; beside it a ``config.json`` whose ``id2label`` is a list.
- run_ner.py: ``encoder.*`` with pooler, ``classifier``, with --use_crf ``crf.*``. There is a tag more than the label file
  has: [PAD], the last. Its chain begins with [CLS] and ends with [SEP], both tagged O.
- run_sentencebert.py, run_simcse.py, run_batchneg.py: ``bert.*`` with pooler, with --output_emb_size ``emb_reduce_linear``;
  of the first also ``classifier``, over two vectors, their difference and perhaps their product.

All but run_classifier.py wrote no ``config.json``.
"""

from pathlib import Path

from loguru import logger
from torch import Tensor

from bertorch.tasks.sentences.encoder import Dense, SentenceEncoder

_REDUCTION = ("emb_reduce_linear.weight", "emb_reduce_linear.bias")
_CLASSIFIER = ("classifier.weight", "classifier.bias")
_WORDS = "embeddings.word_embeddings.weight"


def original_task(tensors: dict[str, Tensor]) -> str | None:
    """What a checkpoint of the original is for, as ``bertorch.json`` names tasks; None for a checkpoint of another tool.

    A classifier of texts and a tagger without CRF hold the same names: both are ``classification`` here.
    """
    if f"encoder.{_WORDS}" in tensors and "classifier.weight" in tensors:
        return "entities" if "crf.transitions" in tensors else "classification"
    if f"bert.{_WORDS}" not in tensors or "bert.pooler.dense.weight" not in tensors:
        return None
    own = {name for name in tensors if not name.startswith("bert.")}
    width = len(tensors[_REDUCTION[0]]) if _REDUCTION[0] in own else tensors[f"bert.{_WORDS}"].shape[1]
    if "classifier.weight" in own and tensors["classifier.weight"].shape[-1] in (3 * width, 4 * width):
        own -= set(_CLASSIFIER)
    return "sentence_vectors" if own <= set(_REDUCTION) else None


def without_padding_tag(tensors: dict[str, Tensor], num_labels: int, outside: int) -> dict[str, Tensor]:
    """The tensors of a tagger, without [PAD] where the original's is the tag too much; others as they are.

    The CRF becomes one over the characters alone. [CLS] and [SEP] are O in every text it was trained on, so what it adds for
    the first character is the step from O, and for the last the step to O; what is the same for all tags drops out.

    Args:
        tensors: the checkpoint.
        num_labels: of the model.
        outside: the id of O.
    """
    weight = tensors.get("classifier.weight")
    if f"encoder.{_WORDS}" not in tensors or weight is None or len(weight) != num_labels + 1:
        return tensors
    cut = {name: tensors[name][:num_labels] for name in _CLASSIFIER if name in tensors}
    transitions = tensors.get("crf.transitions")
    if transitions is not None:
        transitions = transitions[:num_labels, :num_labels]
        cut["crf.transitions"] = transitions
        cut["crf.start_transitions"], cut["crf.end_transitions"] = transitions[outside], transitions[:, outside]
    return {**tensors, **cut}


def reduction_of(tensors: dict[str, Tensor]) -> Dense | None:
    """The layer that the original's --output_emb_size put on top of the vectors; None where there is none."""
    if any(name not in tensors for name in _REDUCTION):
        return None
    weight, bias = (tensors[name] for name in _REDUCTION)
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        return None
    dense = Dense(weight.shape[1], len(weight))
    dense.linear.load_state_dict({"weight": weight, "bias": bias})
    return dense


def take_reduction(model: SentenceEncoder, rest: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Fill a model's dense layer from the original's, where it has one that fits; a warning where it has not.

    Returns:
        What is left of ``rest``.
    """
    theirs = reduction_of(rest)
    if theirs is None:
        return rest
    size = theirs.linear.out_features
    if len(model.dense) != 1 or model.dense[0].linear.weight.shape != theirs.linear.weight.shape:
        logger.warning(
            f"{source}: its vectors go through a layer of width {size}, which is left out; --output_emb_size {size} takes it"
        )
        return rest
    model.dense[0].load_state_dict(theirs.state_dict())
    return {name: tensor for name, tensor in rest.items() if name not in _REDUCTION}
