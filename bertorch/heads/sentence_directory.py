"""Sentence encoders in and out: a plain encoder, or a sentence-transformers directory (which a run leaves too)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from bertorch.encoder import Encoder, load_config
from bertorch.encoder.weights import encoder_tensors, fill_encoder, load_encoder, read_weights
from bertorch.errors import UserError
from bertorch.heads.pooling import pooled_layers
from bertorch.heads.sentence import Dense, SentenceEncoder

MODULES = "modules.json"
_ARCHITECTURES = {
    "bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "albert": "AlbertModel",
    "electra": "ElectraModel",
}  # fmt: skip
_VECTOR = "sentence_embedding"
# Their activations of a Dense: torch's class -> ours.
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
# Their pooling modes: the name -> the key of releases before 6.
_POOLING = {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip


def new_sentence_encoder(
    directory: str | Path,
    pooling_mode: str,
    output_emb_size: int | None = None,
    normalize: bool = False,
    dropout: float | None = None,
    init_from_ckpt: str | Path | None = None,
) -> tuple[SentenceEncoder, dict[str, Tensor]]:
    """A sentence encoder to be trained: the encoder from ``directory`` or ``init_from_ckpt``.

    Args:
        directory: configuration, and weights where ``init_from_ckpt`` is None.
        pooling_mode: one of ``POOLING_MODES``.
        output_emb_size: a new dense layer of this width on top; from ``init_from_ckpt`` where it has one.
        normalize: vectors of length 1.
        dropout: instead of what the configuration says, in all places of the encoder.
        init_from_ckpt: a saved directory, ``.safetensors`` or ``.bin`` file.

    Returns:
        It, and the tensors of the checkpoint that it did not take.

    Raises:
        UserError: weights are missing or do not fit.
    """
    config = load_config(directory)
    if dropout is not None:
        config = replace(config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    with_pooler = pooling_mode == "linear"
    dense = [Dense(config.hidden_size, output_emb_size)] if output_emb_size else []
    if init_from_ckpt is None:
        encoder, rest = load_encoder(directory, with_pooler, config)
    else:
        encoder = Encoder(config, with_pooler)
        tensors = read_weights(init_from_ckpt)
        taken = fill_encoder(encoder, tensors, init_from_ckpt)
        rest = {name: tensor for name, tensor in tensors.items() if name not in taken}
        logger.info(f"{init_from_ckpt}: warm start of the encoder")
    source = Path(init_from_ckpt or directory)
    saved = load_sentence_encoder(source)[0] if (source / MODULES).is_file() else None
    if saved is not None and (saved.pooling_mode, len(saved.dense)) != (pooling_mode, len(dense)):
        logger.warning(
            f"{source}: its vectors come from {_shape(saved.pooling_mode, len(saved.dense))}, here from "
            f"{_shape(pooling_mode, len(dense))}"
        )
    elif saved is not None and dense and saved.dense[0].linear.weight.shape == dense[0].linear.weight.shape:
        dense = list(saved.dense)
        logger.info(f"{source}: warm start of the layer to {output_emb_size} dimensions")
    return SentenceEncoder(encoder, pooling_mode, dense, normalize), rest


def _shape(pooling_mode: str, layers: int) -> str:
    return f"--pooling_mode {pooling_mode} and {layers} dense layers"


def load_sentence_encoder(directory: str | Path) -> tuple[SentenceEncoder, int | None]:
    """A sentence-transformers directory, to encode with.

    Returns:
        The encoder, and the longest sequence the directory asks for.

    Raises:
        UserError: parts that are missing, damaged, or of a kind that is not known here.
    """
    directory = Path(directory)
    modules = [_Module(directory, entry) for entry in _read_json(directory / MODULES, list)]
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    expected = ["Transformer"] + ["WeightedLayerPooling"] * ("WeightedLayerPooling" in kinds) + ["Pooling"]
    expected += ["Dense"] * kinds.count("Dense") + ["Normalize"] * ("Normalize" in kinds)
    if kinds != expected:
        raise UserError(f"{directory / MODULES}: {', '.join(kinds)} is no order of parts that is known here")
    by_kind = {module.kind: module for module in modules}

    config = load_config(by_kind["Transformer"].directory)
    pooling_mode = _pooling_mode(by_kind, config.num_hidden_layers)
    dense = [_load_dense(module.directory) for module in modules if module.kind == "Dense"]
    tensors = read_weights(by_kind["Transformer"].directory)
    ours = directory / "bertorch.json"
    linear = ours.is_file() and _read_json(ours, dict).get("pooling_mode") == "linear"
    encoder = Encoder(config, with_pooler=linear)
    fill_encoder(encoder, tensors, directory, pooler_required=linear)
    if linear:  # the first dense layer is the pooler, for those who do not know poolers
        pooling_mode, dense = "linear", dense[1:]
    model = SentenceEncoder(encoder, pooling_mode, dense, "Normalize" in by_kind)
    settings = by_kind["Transformer"].directory / "sentence_bert_config.json"
    length = _read_json(settings, dict).get("max_seq_length") if settings.is_file() else None
    return model.eval(), length


class _Module:
    """An entry of ``modules.json``."""

    def __init__(self, directory: Path, entry: dict[str, Any]):
        try:
            self.kind = str(entry["type"]).rsplit(".", 1)[-1]
            self.directory = directory / str(entry["path"])
        except (KeyError, TypeError):
            raise UserError(f"{directory / MODULES}: each entry needs a type and a path") from None


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: a JSON {'list' if kind is list else 'object'} is expected")
    return content


def _pooling_mode(modules: dict[str, _Module], num_hidden_layers: int) -> str:
    path = modules["Pooling"].directory / "config.json"
    config = _read_json(path, dict)
    modes = config.get("pooling_mode", [name for name, key in _POOLING.items() if config.get(key)])
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in ("cls", "max", "mean"):
        raise UserError(f"{path}: pooling by {' and '.join(map(str, modes))} is not known; known are cls, max, mean")
    layers = modules.get("WeightedLayerPooling")
    if layers is None:
        return modes[0]
    weights = read_weights(layers.directory)["layer_weights"].tolist()
    start = _read_json(layers.directory / "config.json", dict)["layer_start"]
    for mode in ("first_last", "last_two"):
        chosen = pooled_layers(mode, num_hidden_layers)
        if modes[0] == "mean" and weights == _layer_weights(chosen, num_hidden_layers)[start:]:
            return mode
    raise UserError(f"{layers.directory}: other weights of layers than those of first_last and last_two are not known")


def _layer_weights(layers: tuple[int, int], num_hidden_layers: int) -> list[float]:
    return [float(layers.count(layer)) for layer in range(num_hidden_layers + 1)]


def _load_dense(directory: Path) -> Dense:
    config = _read_json(directory / "config.json", dict)
    act = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if act not in _ACTIVATIONS or config.get("use_residual") or config.get("module_input_name", _VECTOR) != _VECTOR:
        raise UserError(f"{directory}: a dense layer of a kind that is not known here ({act})")
    tensors = read_weights(directory)
    weight = tensors["linear.weight"]
    dense = Dense(weight.shape[1], weight.shape[0], _ACTIVATIONS[act])
    with torch.no_grad():
        dense.linear.weight.copy_(weight)
        dense.linear.bias.copy_(tensors.get("linear.bias", torch.zeros(len(weight))))
    return dense


def sentence_files(
    model: SentenceEncoder, max_seq_length: int, head: dict[str, Tensor] | None = None
) -> dict[str, dict | list]:
    """What a saved sentence encoder consists of: path -> JSON content, or tensors for ``.safetensors``.

    transformers' base model, and around it a sentence-transformers directory with the same vectors. BERT's pooler is
    written once more as a dense layer over [CLS], which it is. ``head`` are weights beside the encoder's that nobody but a
    head of ours asks for.
    """
    config = model.encoder.config
    width = config.hidden_size
    layers = pooled_layers(model.pooling_mode, config.num_hidden_layers)
    parts: list[tuple[str, dict, dict[str, Tensor]]] = []
    if layers is not None:
        about = {"word_embedding_dimension": width, "layer_start": 0, "num_hidden_layers": config.num_hidden_layers}
        weights = torch.tensor(_layer_weights(layers, config.num_hidden_layers))
        parts.append(("WeightedLayerPooling", about, {"layer_weights": weights}))
    mode = {"linear": "cls"}.get(model.pooling_mode, "mean" if layers else model.pooling_mode)
    parts.append(
        ("Pooling", {"word_embedding_dimension": width, **{key: name == mode for name, key in _POOLING.items()}}, {})
    )
    if model.pooling_mode == "linear":
        parts.append(_dense_part(model.encoder.pooler.dense, "tanh"))
    parts += [_dense_part(layer.linear, layer.act) for layer in model.dense]
    if model.normalize:
        parts.append(("Normalize", {}, {}))

    files: dict[str, dict | list] = {
        "config.json": {
            **config.to_dict(),
            "architectures": [_ARCHITECTURES[config.model_type]],
            **({"output_hidden_states": True} if layers else {}),
        },
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        "model.safetensors": {**encoder_tensors(model.encoder, prefix=""), **(head or {})},
    }
    modules = [_entry(0, "", "Transformer")]
    for number, (kind, about, tensors) in enumerate(parts, 1):
        path = f"{number}_{kind}"
        modules.append(_entry(number, path, kind))
        files[f"{path}/config.json"] = about
        if tensors:
            files[f"{path}/model.safetensors"] = tensors
    files[MODULES] = modules
    return files


def _dense_part(linear: nn.Linear, act: str | None) -> tuple[str, dict, dict[str, Tensor]]:
    theirs = next(name for name, ours in _ACTIVATIONS.items() if ours == act)
    about = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": True,
        "activation_function": f"torch.nn.modules.{'linear' if act is None else 'activation'}.{theirs}",
    }
    return "Dense", about, {"linear.weight": linear.weight.detach(), "linear.bias": linear.bias.detach()}


def _entry(number: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
