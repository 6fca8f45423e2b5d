"""Load and save sentence encoders: plain encoders, or sentence-transformers directories, which a run saves too."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from bertorch.encoder import Encoder, EncoderConfig, load_config
from bertorch.encoder.config import beside
from bertorch.encoder.weights import (
    encoder_tensors,
    fill_encoder,
    find_weights,
    load_encoder,
    read_model,
    read_weights,
    weights_file,
)
from bertorch.errors import UserError
from bertorch.heads.pooling import PLAIN_POOLING_MODES, Pooling, pooled_layers
from bertorch.memory import check_memory
from bertorch.tasks.sentences.encoder import Dense, SentenceEncoder
from bertorch.tasks.sentences.original import reduction_of, take_reduction

MODULES = "modules.json"
_VECTOR = "sentence_embedding"
# Our parts in place of sentence-transformers' Pooling, which it cannot open; under these names it says so.
_OWN_POOLING = {"attention": "AttentionPooling", "cls_layers": "FirstTokensPooling"}
# Activations of sentence-transformers' Dense: torch's class -> our name.
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
# Pooling modes of sentence-transformers: name -> key in releases before 6.
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
    pooling_layers: int | None = None,
) -> tuple[SentenceEncoder, dict[str, Tensor]]:
    """A sentence encoder to train, with the encoder from ``directory`` or ``init_from_ckpt``.

    Args:
        directory: has the configuration, and the weights if ``init_from_ckpt`` is None.
        pooling_mode, pooling_layers: of ``Pooling``.
        output_emb_size: add a dense layer of this width; its weights come from ``init_from_ckpt`` if it has one.
        normalize: scale vectors to length 1.
        dropout: everywhere in the encoder, instead of the configuration's.
        init_from_ckpt: a saved directory, ``.safetensors`` or ``.bin`` file.

    Returns:
        The sentence encoder, and the checkpoint's unused tensors.

    Raises:
        UserError: weights are missing or do not fit.
    """
    config = load_config(directory)
    with_pooler = pooling_mode == "linear"
    if pooling_mode in _OWN_POOLING:
        logger.info(f"sentence-transformers has no {pooling_mode} pooling: bertorch alone opens what is saved")
    width = Pooling(config, pooling_mode, pooling_layers).width
    dense = [Dense(width, output_emb_size)] if output_emb_size else []
    if init_from_ckpt is None:
        encoder, rest = load_encoder(directory, with_pooler, config)
    else:
        encoder = Encoder(config, with_pooler, initialise=False)
        init_from_ckpt = weights_file(init_from_ckpt)
        tensors = read_model(init_from_ckpt, config)
        taken = fill_encoder(encoder, tensors, init_from_ckpt)
        rest = {name: tensor for name, tensor in tensors.items() if name not in taken}
        logger.info(f"{init_from_ckpt}: warm start of the encoder")
    if dropout is not None:
        encoder.set_dropout(dropout)
    model = SentenceEncoder(encoder, pooling_mode, dense, normalize, pooling_layers)
    source = Path(init_from_ckpt or directory)
    if source.is_file() and source == find_weights(source.parent):
        source = source.parent
    if (source / MODULES).is_file():
        _take_layers(model, source)
    return model, take_reduction(model, rest, source)


def plain_sentence_encoder(directory: str | Path, pooling_mode: str, weights: str | Path | None = None) -> SentenceEncoder:
    """A pretrained encoder, to encode with; ``directory`` or ``weights`` must hold every weight.

    Raises:
        UserError: weights are missing or do not fit, or the mode has layers to choose or weights to learn.
    """
    if pooling_mode not in PLAIN_POOLING_MODES:
        raise UserError(f"--pooling_mode {pooling_mode}: only a run can learn it; open the directory that the run saved")
    config = load_config(directory)
    encoder = Encoder(config, pooling_mode == "linear", initialise=False)
    source = weights or directory
    tensors = read_model(source, config)
    fill_encoder(encoder, tensors, source, pooler_required=True)
    dense = reduction_of(tensors)  # of the original bertorch
    return SentenceEncoder(encoder, pooling_mode, [dense] if dense else []).eval()


def _take_layers(model: SentenceEncoder, source: Path) -> None:
    """Fill the layers on top of the encoder from ``source`` if both have the same; else warn."""
    saved = _read_parts(source)
    ours, theirs = _linear_layers(model), [(layer.linear, layer.act) for layer in saved.dense]
    pooled = pooled_layers(saved.pooling_mode, saved.config.num_hidden_layers, saved.count)
    here, there = _shape(_written_mode(model), model.pooling.layers, ours), _shape(saved.pooling_mode, pooled, theirs)
    if here != there:
        logger.warning(f"{source}: it makes vectors with {there}, this run with {here}; only the encoder is used")
        return
    for (mine, _), (other, _) in zip(ours, theirs, strict=True):
        mine.load_state_dict(other.state_dict())
    model.pooling.load_state_dict(saved.pooling)


def _shape(pooling_mode: str, pooled: tuple[int, ...] | None, layers: list[tuple[nn.Linear, str | None]]) -> str:
    shown = [f"{linear.out_features} ({act or 'linear'})" for linear, act in layers]
    of_layers = f" of {len(pooled)} layers" if pooled else ""
    return f"{pooling_mode} pooling{of_layers}" + (f" and dense layers of {', '.join(shown)}" if shown else "")


def _written_mode(model: SentenceEncoder) -> str:
    return "cls" if model.pooling_mode == "linear" else model.pooling_mode


def _linear_layers(model: SentenceEncoder) -> list[tuple[nn.Linear, str | None]]:
    """All layers on the pooled vector, and their activations; BERT's pooler is one on [CLS]."""
    pooler = [(model.encoder.pooler.dense, "tanh")] if model.pooling_mode == "linear" else []
    return pooler + [(layer.linear, layer.act) for layer in model.dense]


def load_sentence_encoder(directory: str | Path) -> tuple[SentenceEncoder, int | None]:
    """Load a sentence-transformers directory, to encode with; BERT's pooler becomes a dense layer on [CLS].

    Returns:
        The encoder, and the longest sequence the directory asks for.

    Raises:
        UserError: a part is missing, damaged or not supported.
    """
    parts = _read_parts(Path(directory))
    encoder = Encoder(parts.config, initialise=False)
    fill_encoder(encoder, read_weights(parts.home), parts.home)
    model = SentenceEncoder(encoder, parts.pooling_mode, parts.dense, parts.normalize, parts.count)
    model.pooling.load_state_dict(parts.pooling)
    return model.eval(), _max_seq_length(parts.home)


@dataclass
class _Parts:
    """What a directory holds apart from the encoder's weights; those are in ``home``.

    ``count`` and ``pooling``: the number of layers and the weights of ``Pooling``.
    """

    home: Path
    config: EncoderConfig
    pooling_mode: str
    count: int | None
    pooling: dict[str, Tensor]
    dense: list[Dense]
    normalize: bool


def _read_parts(directory: Path) -> _Parts:
    modules = _modules(directory)
    by_kind = {module.kind: module for module in modules}
    home = by_kind["Transformer"].directory
    config = load_config(home)
    pooling_mode, count, weights = _pooling(by_kind, config)
    dense, width = [], Pooling(config, pooling_mode, count).width
    for module in modules:
        if module.kind == "Dense":
            dense.append(_load_dense(module.directory, width))
            width = dense[-1].linear.out_features
    if "Normalize" in by_kind:
        _check_names(by_kind["Normalize"].directory / "config.json")
    return _Parts(home, config, pooling_mode, count, weights, dense, "Normalize" in by_kind)


def transformer_directory(directory: Path) -> Path:
    """The folder with configuration, vocabulary and encoder; a plain directory itself."""
    return _modules(directory)[0].directory if (directory / MODULES).is_file() else directory


def _modules(directory: Path) -> list["_Module"]:
    path = directory / MODULES
    modules = [module for module in (_Module(path, entry) for entry in _read_json(path, list)) if module.kind != "Dropout"]
    kinds = [module.kind for module in modules]
    own = [kind for kind in _OWN_POOLING.values() if kind in kinds]
    expected = ["Transformer"] + ["WeightedLayerPooling"] * ("WeightedLayerPooling" in kinds) + (own or ["Pooling"])
    expected += ["Dense"] * kinds.count("Dense") + ["Normalize"] * ("Normalize" in kinds)
    if kinds != expected:
        raise UserError(f"{path}: {', '.join(kinds)} is not a supported order of parts")
    return modules


def _max_seq_length(directory: Path) -> int | None:
    """Read it from the file of sentence-transformers before 6, or from the tokenizer's settings."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        path = directory / name
        length = _read_json(path, dict).get(key) if path.is_file() else None
        if length is None:
            continue
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise UserError(f"{path}: {key} must be a whole number above 0, found {length!r}")
        return length if length < 10**6 else None  # transformers writes 10**30 for "no limit"
    return None


class _Module:
    """An entry of ``modules.json``."""

    def __init__(self, path: Path, entry: dict[str, Any]):
        try:
            self.kind = str(entry["type"]).rsplit(".", 1)[-1]
            self.directory = beside(path, str(entry["path"]))
        except (KeyError, TypeError):
            raise UserError(f"{path}: each entry needs a type and a path") from None


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: a JSON {'list' if kind is list else 'object'} is expected")
    return content


def _pooling(modules: dict[str, _Module], config: EncoderConfig) -> tuple[str, int | None, dict[str, Tensor]]:
    """What ``Pooling`` needs: its mode, its number of layers, and its weights."""
    for mode, kind in _OWN_POOLING.items():
        if kind in modules:
            return _own_pooling(mode, modules[kind].directory, config)
    path = modules["Pooling"].directory / "config.json"
    about = _read_json(path, dict)
    modes = about.get("pooling_mode") or [name for name, key in _POOLING.items() if about.get(key)] or "mean"
    modes = modes if isinstance(modes, list) else [modes]
    if config.family.cls_last:  # its classification token is their last one
        modes = [{"lasttoken": "cls", "cls": "the first token"}.get(mode, mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in ("cls", "max", "mean"):
        raise UserError(f"{path}: pooling by {' and '.join(map(str, modes))} is not supported; supported are cls, max, mean")
    layers = modules.get("WeightedLayerPooling")
    if layers is None or not config.other.get("output_hidden_states"):  # it needs the states of all layers
        return modes[0], None, {}
    start = _read_json(layers.directory / "config.json", dict).get("layer_start")
    weights = read_weights(layers.directory).get("layer_weights")
    for mode in ("first_last", "last_two"):
        expected = _layer_weights(mode, config)
        fits = isinstance(start, int) and weights is not None and list(weights.shape) == [len(expected[start:])]
        if modes[0] == "mean" and fits and weights.tolist() == expected[start:]:
            return mode, None, {}
    if modes[0] == "mean" and fits and start >= 0:
        every = [0.0] * start + weights.tolist()
        mixed = every[config.inner_group_num :: config.inner_group_num]  # after each layer
        count = sum(weight != 0 for weight in every)
        if 0 < count <= len(mixed) and all(weight > 0 for weight in mixed[-count:]):
            return "scalar_mix", count, {"layer_weights": torch.tensor(mixed[-count:]).log()}
    raise UserError(f"{layers.directory}: layer weights must be above 0 for the last layers, and 0 for the others")


def _own_pooling(mode: str, directory: Path, config: EncoderConfig) -> tuple[str, int | None, dict[str, Tensor]]:
    if mode == "cls_layers":
        count = _read_json(directory / "config.json", dict).get("layers")
        if type(count) is not int or not 0 < count <= config.num_hidden_layers:
            raise UserError(f"{directory}: layers must be a whole number up to {config.num_hidden_layers}")
        return mode, count, {}
    scores = read_weights(directory).get("scores", torch.empty(0))
    if scores.shape != (config.hidden_size,) or not scores.dtype.is_floating_point:
        raise UserError(f"{directory}: contains no weights of attention pooling for states of width {config.hidden_size}")
    return mode, None, {"scores": scores}


def _layer_weights(mode: str, config: EncoderConfig, pooling: Pooling | None = None) -> list[float]:
    """The weight of each hidden state that transformers returns: the embeddings, then every block of every layer."""
    weights = [0.0] * (config.num_hidden_layers * config.inner_group_num + 1)
    if pooling is not None and mode == "scalar_mix":
        for layer, weight in zip(pooling.layers, pooling.layer_weights.softmax(dim=0).tolist(), strict=True):
            weights[layer * config.inner_group_num] = weight
        return weights
    for layer in pooled_layers(mode, config.num_hidden_layers):
        weights[layer * config.inner_group_num] += 1.0
    return weights


def _load_dense(directory: Path, width: int) -> Dense:
    config = _read_json(directory / "config.json", dict)
    _check_names(directory / "config.json")
    act = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if act not in _ACTIVATIONS:
        raise UserError(f"{directory}: activation {act} is not supported; supported are {', '.join(_ACTIVATIONS)}")
    if config.get("use_residual"):
        raise UserError(f"{directory}: a dense layer with a residual is not supported")
    tensors = read_weights(directory)
    weight, bias = tensors.get("linear.weight", torch.empty(0)), tensors.get("linear.bias")
    refusal = UserError(f"{directory}: contains no weights of a dense layer for vectors of width {width}")
    if weight.dim() != 2 or weight.shape[1] != width or not len(weight) or not weight.dtype.is_floating_point:
        raise refusal
    check_memory(directory, f"a dense layer of {len(weight)} outputs", 4 * weight.numel())
    bias = torch.zeros(len(weight)) if bias is None else bias
    if bias.shape != weight.shape[:1] or not bias.dtype.is_floating_point:
        raise refusal
    dense = Dense(width, len(weight), _ACTIVATIONS[act])
    dense.linear.load_state_dict({"weight": weight, "bias": bias})
    return dense


def _check_names(path: Path) -> None:
    """Raises UserError if a part reads or writes anything but the sentence's vector."""
    config = _read_json(path, dict) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _VECTOR):
            raise UserError(f"{path}: {key} {config[key]!r} is not supported; only {_VECTOR!r} is")


def sentence_files(
    model: SentenceEncoder, max_seq_length: int, head: dict[str, Tensor] | None = None
) -> dict[str, dict | list]:
    """The files of a saved sentence encoder: path -> JSON content, or tensors for ``.safetensors``.

    A base model of transformers, and around it a sentence-transformers directory with the same vectors. BERT's pooler is
    also written as a dense layer on [CLS]. ``head``: further weights, saved beside the encoder's, that only our heads
    read.
    """
    config = model.encoder.config
    width, pooling = config.hidden_size, model.pooling
    layers = None if model.pooling_mode in _OWN_POOLING else pooling.layers
    parts: list[tuple[str, dict, dict[str, Tensor]]] = []
    if layers is not None:
        weights = _layer_weights(model.pooling_mode, config, pooling)
        about = {"word_embedding_dimension": width, "layer_start": 0, "num_hidden_layers": len(weights) - 1}
        parts.append(("WeightedLayerPooling", about, {"layer_weights": torch.tensor(weights)}))
    mode = "mean" if layers else _written_mode(model)
    if model.pooling_mode in _OWN_POOLING:
        about = {"word_embedding_dimension": width, **({"layers": len(pooling.layers)} if pooling.layers else {})}
        parts.append((_OWN_POOLING[mode], about, {name: x.detach() for name, x in pooling.named_parameters()}))
    else:
        written = "lasttoken" if mode == "cls" and config.family.cls_last else mode
        about = {"word_embedding_dimension": width, **{key: name == written for name, key in _POOLING.items()}}
        parts.append(("Pooling", about, {}))
    parts += [_dense_part(linear, act) for linear, act in _linear_layers(model)]
    if model.normalize:
        parts.append(("Normalize", {}, {}))

    files: dict[str, dict | list] = {
        "config.json": {
            **config.to_dict(),
            "architectures": [f"{config.family.class_prefix}Model"],
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
    library = "bertorch" if kind in _OWN_POOLING.values() else "sentence_transformers.models"
    return {"idx": number, "name": str(number), "path": path, "type": f"{library}.{kind}"}
