"""bert4torch's own names for the weights of a model, as ``model.state_dict()`` saves them: in, not out.

A model that a user builds on it keeps the encoder under an attribute, so names may begin with ``bert.`` or anything else.
"""

import re

from torch import Tensor

from bertorch.encoder.config import EncoderConfig

# Our modules -> bert4torch's.
_OUTSIDE = {
    "embeddings.word": "embeddings.word_embeddings", "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.segment_embeddings", "embeddings.norm": "embeddings.layerNorm",
    "embeddings.projection": "embeddings.embedding_hidden_mapping_in", "pooler.dense": "pooler",
}  # fmt: skip
_BLOCK = {
    "query": "multiHeadAttention.q", "key": "multiHeadAttention.k", "value": "multiHeadAttention.v",
    "attention_output": "multiHeadAttention.o", "attention_norm": "attnLayerNorm",
    "intermediate": "feedForward.intermediateDense", "output": "feedForward.outputDense", "output_norm": "ffnLayerNorm",
}  # fmt: skip
_PRETRAINING = {"transform": "mlmDense", "norm": "mlmLayerNorm", "order": "nsp"}
_OLDER = {"layerNorm1": "attnLayerNorm", "layerNorm2": "ffnLayerNorm"}  # of its first versions
_MARK = "encoderLayer.0.multiHeadAttention.q.weight"


def to_hugging_face(tensors: dict[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """``tensors`` under Hugging Face's names for this family if they have bert4torch's; else as they are.

    Tensors of a task's own layers keep their names.
    """
    prefix = next((name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)), None)
    if prefix is None:
        return tensors
    family = config.family
    wrapper = "module." if prefix.startswith("module.") else ""
    outside = {theirs: family.weights[ours] for ours, theirs in _OUTSIDE.items() if ours in family.weights}
    names = {f"{prefix}{theirs}": f"{prefix}{name}" for theirs, name in outside.items()}
    heads = {theirs: family.pretraining[ours] for ours, theirs in _PRETRAINING.items() if ours in family.pretraining}
    names |= {f"{prefix}{theirs}": f"{wrapper}{name}" for theirs, name in heads.items()}
    blocks = {theirs: family.weights[f"blocks.{{block}}.{ours}"] for ours, theirs in _BLOCK.items()}
    whole = {f"{prefix}mlmBias": "bias", f"{prefix}mlmDecoder.weight": "decoder"}
    renamed = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module in names:
            renamed[f"{names[module]}.{kind}"] = tensor
        elif whole.get(name) in family.pretraining:
            renamed[wrapper + family.pretraining[whole[name]]] = tensor
        elif found := re.fullmatch(rf"{re.escape(prefix)}encoderLayer\.(\d+)\.(.+)", module):
            group, inner = divmod(int(found[1]), config.inner_group_num)
            part = blocks.get(_OLDER.get(found[2], found[2]))
            here = None if part is None else part.format(block=found[1], group=group, inner=inner)
            renamed[name if here is None else f"{prefix}{here}.{kind}"] = tensor
        elif name != f"{prefix}mlmDecoder.bias":  # mlmBias again
            renamed[name] = tensor
    return renamed
