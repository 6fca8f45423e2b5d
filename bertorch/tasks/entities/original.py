"""Read taggers of the original bertorch (see ``tasks/original.py``) as ours."""

from torch import Tensor

from bertorch.tasks.original import CLASSIFIER, WORDS


def without_padding_tag(tensors: dict[str, Tensor], num_labels: int, outside: int) -> dict[str, Tensor]:
    """The tensors of a tagger without the original's extra tag [PAD]; other taggers stay as they are.

    The CRF becomes one over the characters alone. [CLS] and [SEP] are O in every text it was trained on, so the
    start scores are those of a step from O, and the end scores those of a step to O; terms equal for all tags drop out.

    Args:
        tensors: the checkpoint.
        num_labels: the number of the model's tags.
        outside: the id of O.
    """
    weight = tensors.get("classifier.weight")
    if f"encoder.{WORDS}" not in tensors or weight is None or len(weight) != num_labels + 1:
        return tensors
    cut = {name: tensors[name][:num_labels] for name in CLASSIFIER if name in tensors}
    transitions = tensors.get("crf.transitions")
    if transitions is not None:
        transitions = transitions[:num_labels, :num_labels]
        cut["crf.transitions"] = transitions
        cut["crf.start_transitions"], cut["crf.end_transitions"] = transitions[outside], transitions[:, outside]
    return {**tensors, **cut}
