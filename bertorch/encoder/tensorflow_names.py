"""TensorFlow's names for the weights of Google's BERT and ALBERT and of related models: variables in, tensors out.

RoFormer and RoFormer-v2 (bert4keras) have BERT's names, but no table of positions, and v2 neither biases nor norms. NEZHA
(Huawei) has the names of RoFormer; its configuration says ``use_relative_position``.
Two related models embed differently, but fit ALBERT's form without changing the result: SimBERT's BERT layers over narrow
embeddings are an ALBERT that shares no layers; the ``albert_zh`` repository has a second matrix between word embedding and
layer norm, which is multiplied into the first.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from bertorch.encoder.config import EncoderConfig
from bertorch.encoder.model import Encoder
from bertorch.encoder.weights import hugging_face_names, listed
from bertorch.errors import UserError

OPTIMIZER = re.compile(r"(^|/)(adam|lamb|momentum|global_step|beta[12]_power|good_steps|loss_scale)[^/]*$", re.IGNORECASE)
_WORDS, _MAPPING = "bert/embeddings/word_embeddings", "bert/encoder/embedding_hidden_mapping_in"
_POSITIONS, _NORM = "bert/embeddings/position_embeddings", "bert/embeddings/LayerNorm"
_OPTIONAL = ("bert/pooler/", "cls/predictions/", "cls/seq_relationship/")  # may be missing as a whole

# Our modules -> TensorFlow's scopes.
_OUTSIDE = {
    "embeddings.word": _WORDS,
    "embeddings.position": _POSITIONS,
    "embeddings.token_type": "bert/embeddings/token_type_embeddings",
    "embeddings.norm": _NORM,
    "embeddings.projection": _MAPPING,
    "pooler.dense": "bert/pooler/dense",
}
_BERT_BLOCK = {
    "query": "attention/self/query", "key": "attention/self/key", "value": "attention/self/value",
    "attention_output": "attention/output/dense", "attention_norm": "attention/output/LayerNorm",
    "intermediate": "intermediate/dense", "output": "output/dense", "output_norm": "output/LayerNorm",
}  # fmt: skip
_ALBERT_BLOCK = {
    "query": "attention_1/self/query", "key": "attention_1/self/key", "value": "attention_1/self/value",
    "attention_output": "attention_1/output/dense", "attention_norm": "LayerNorm",
    "intermediate": "ffn_1/intermediate/dense", "output": "ffn_1/intermediate/output/dense", "output_norm": "LayerNorm_1",
}  # fmt: skip
# The scope of each layout's blocks, and what a block contains.
_BLOCKS = {
    "bert": ("bert/encoder/layer_{block}/", _BERT_BLOCK),
    "albert": ("bert/encoder/transformer/group_{group}/inner_group_{inner}/", _ALBERT_BLOCK),
    "albert_zh": ("bert/encoder/layer_shared/", _BERT_BLOCK),
}


def _layout(variables: dict[str, np.ndarray]) -> str:
    scopes = {"/".join(name.split("/")[:3]) for name in variables}
    return (
        "albert"
        if "bert/encoder/transformer" in scopes
        else "albert_zh"
        if "bert/encoder/layer_shared" in scopes
        else "bert"
    )


def hugging_face_config(raw: dict[str, Any], variables: dict[str, np.ndarray], source: str | Path) -> EncoderConfig:
    """Derive ``config.json`` from the checkpoint's own configuration and the names of its variables.

    "gelu" means the error function in BERT (in the code of its first release, and in bert4keras, which trained SimBERT)
    and the tanh formula in ALBERT, albert_zh and NEZHA (their ``modeling.py``): Hugging Face's "gelu" and "gelu_new".

    Raises:
        UserError: the network computes something else, or the values do not describe a model.
    """
    layout = _layout(variables)
    for key, supported in (("net_structure_type", 0), ("ln_type", "postln")):
        if raw.get(key, supported) != supported:
            raise UserError(f"{source}: {key} {raw[key]!r} is not supported, only {supported!r}")
    raw = {"layer_norm_eps": 1e-12, **raw, "model_type": _model_type(layout, raw, variables)}
    raw["hidden_act"] = str(raw.get("hidden_act", "gelu")).lower()
    if (layout != "bert" or raw["model_type"] == "nezha") and raw["hidden_act"] == "gelu":
        raw["hidden_act"] = "gelu_new"
    if layout == "bert" and raw["model_type"] == "albert":
        raw.update(num_hidden_groups=raw.get("num_hidden_layers"), inner_group_num=1)
    elif layout == "albert_zh":
        raw.update(num_hidden_groups=1, inner_group_num=1, embedding_size=raw.get("hidden_size"))
    try:
        return EncoderConfig.from_dict(raw, source)
    except TypeError as error:
        raise UserError(f"{source}: a value has the wrong type ({error})") from None


def _model_type(layout: str, raw: dict[str, Any], variables: dict[str, np.ndarray]) -> str:
    if raw.get("use_relative_position") is True:
        return "nezha"
    if layout == "bert" and _WORDS in variables and _POSITIONS not in variables:
        return "roformer" if f"{_NORM}/gamma" in variables else "roformer_v2"
    return "albert" if layout != "bert" or f"{_MAPPING}/kernel" in variables else "bert"


def hugging_face_tensors(variables: dict[str, np.ndarray], config: EncoderConfig, source: str | Path) -> dict[str, Tensor]:
    """The variables of a checkpoint under Hugging Face's names, in fp32; a kernel ``[in, out]`` becomes ``[out, in]``.

    The pooler and each head may be missing as a whole; this is logged, and so are unused variables.

    Raises:
        UserError: variables are missing, or their sizes differ from the configuration; the message names them.
    """
    if _WORDS not in variables:
        shown = ", ".join(sorted(variables)[:3])
        raise UserError(f"{source}: no {_WORDS}, so this is neither Google's BERT nor ALBERT; it holds {shown} ...")
    variables, layout = dict(variables), _layout(variables)
    if layout == "albert_zh" and f"{_WORDS}_2" in variables:  # [vocab_size, E] @ [E, hidden_size]
        words, second = variables[_WORDS], variables.pop(f"{_WORDS}_2")
        if words.ndim != 2 or second.ndim != 2 or words.shape[1] != second.shape[0]:
            shapes = f"{list(words.shape)} and {list(second.shape)}"
            raise UserError(f"{source}: {_WORDS} and {_WORDS}_2 have sizes that do not match: {shapes}")
        variables[_WORDS] = words @ second
    if config.model_type == "albert" and config.embedding_size == config.hidden_size:  # then Google has no mapping
        variables.setdefault(f"{_MAPPING}/kernel", np.eye(config.hidden_size))
        variables.setdefault(f"{_MAPPING}/bias", np.zeros(config.hidden_size))
    absent = tuple(scope for scope in _OPTIONAL if not any(name.startswith(scope) for name in variables))
    wanted = {name: x for name, x in _expected(config, layout).items() if not name.startswith(absent)}
    missing = [name for name in wanted if name not in variables]
    if missing:
        raise UserError(f"{source}: {len(missing)} variables are missing: {listed(missing)}")
    wrong = [
        f"{name} is {list(variables[name].shape)}, the configuration says {list(shape)}"
        for name, (_, shape) in wanted.items()
        if variables[name].shape != shape
    ]
    wrong += [f"{name} holds no numbers" for name in wanted if variables[name].dtype.kind in "OSU"]
    if wrong:
        raise UserError(f"{source}: {listed(wrong)}")
    unknown = sorted(name for name in variables if name not in wanted and not OPTIMIZER.search(name))
    for names, what in ((absent, "missing entirely"), (unknown, "left out, as the model does not use them")):
        if names:
            logger.info(f"{source}: {what}: {listed(names)}")
    return {
        theirs: torch.from_numpy(
            np.array(variables[name].T if name.endswith("/kernel") else variables[name], dtype=np.float32, order="C")
        )
        for name, (theirs, _) in wanted.items()
    }


def _expected(config: EncoderConfig, layout: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """TensorFlow's name -> Hugging Face's name, and the shape in TensorFlow."""
    with torch.device("meta"):
        parameters = dict(Encoder(config, with_pooler=True).named_parameters())
    scope, inside = _BLOCKS[layout]
    expected = {}
    for ours, theirs in hugging_face_names(config, list(parameters)).items():
        module, kind = ours.rsplit(".", 1)
        if module in _OUTSIDE:
            name = _OUTSIDE[module]
        else:
            _, block, part = module.split(".")
            group, inner = divmod(int(block), config.inner_group_num)
            name = scope.format(block=block, group=group, inner=inner) + inside[part]
        if module.endswith("norm"):
            name += {"weight": "/gamma", "bias": "/beta"}[kind]
        elif not name.endswith("_embeddings"):
            name += {"weight": "/kernel", "bias": "/bias"}[kind]
        shape = tuple(parameters[ours].shape)
        expected[name] = (config.family.base_prefix + theirs, shape[::-1] if name.endswith("/kernel") else shape)
    return expected | _expected_heads(config)


def _expected_heads(config: EncoderConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    names, width, hidden = config.family.pretraining, config.embedding_size, config.hidden_size
    layers = {
        "cls/predictions/transform/dense/kernel": ("transform", ".weight", (hidden, width)),
        "cls/predictions/transform/dense/bias": ("transform", ".bias", (width,)),
        "cls/predictions/transform/LayerNorm/gamma": ("norm", ".weight", (width,)),
        "cls/predictions/transform/LayerNorm/beta": ("norm", ".bias", (width,)),
        "cls/predictions/output_bias": ("bias", "", (config.vocab_size,)),
        "cls/seq_relationship/output_weights": ("order", ".weight", (2, hidden)),
        "cls/seq_relationship/output_bias": ("order", ".bias", (2,)),
    }
    return {theirs: (names[layer] + kind, shape) for theirs, (layer, kind, shape) in layers.items() if layer in names}
