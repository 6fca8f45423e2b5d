"""Weights in and out: safetensors (whole or sharded) and ``pytorch_model.bin``, strictly, under Hugging Face's names."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from loguru import logger
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bertorch.checksums import tensors_checksum
from bertorch.encoder.bert4torch_names import to_hugging_face
from bertorch.encoder.config import EncoderConfig, beside, load_config
from bertorch.encoder.larger_tables import with_larger_tables
from bertorch.encoder.layers import Embedding, sinusoids
from bertorch.encoder.model import Encoder
from bertorch.errors import UserError
from bertorch.memory import check_memory

# Files that may hold a model directory's weights, in order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CHECKSUM = "crc32"  # in the metadata: another tool that rewrites the file drops it, so it never gets in the way
# How far sines that were saved in a type may be from their values; trained ones do not fit the type, or are further away.
_ROUNDED = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 1e-5}


def hugging_face_names(config: EncoderConfig, parameters: list[str]) -> dict[str, str]:
    """Our parameter names (``blocks.3.query.weight``) -> Hugging Face's, without a base prefix."""
    table = config.family.weights
    names = {}
    for parameter in parameters:
        module, kind = parameter.rsplit(".", 1)
        parts = module.split(".")
        numbers = {}
        if parts[0] == "blocks":
            block = int(parts[1])
            numbers = {
                "block": block,
                "group": block // config.inner_group_num,
                "inner": block % config.inner_group_num,
            }
            module = ".".join(["blocks", "{block}", *parts[2:]])
        single = table.get(f"{module}.{kind}")  # the table names this weight, not its module
        names[parameter] = single.format(**numbers) if single else f"{table[module].format(**numbers)}.{kind}"
    return names


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file of these tensors, with a checksum that ``read_weights`` compares."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt", _CHECKSUM: tensors_checksum(tensors)})


def find_weights(directory: str | Path) -> Path | None:
    """The weights file of a model directory, or None: such a model starts from scratch."""
    return next((Path(directory) / name for name in WEIGHT_FILES if (Path(directory) / name).is_file()), None)


def weights_file(path: str | Path) -> Path:
    """The file with the weights of a model directory, or ``path`` itself if it is a file.

    For a ``.bin`` that does not exist, the ``model.safetensors`` beside it is read, and this is logged: runs save that, and
    commands for the original bertorch name ``checkpoint/pytorch_model.bin``.

    Raises:
        UserError: no such file, or no weights in the directory.
    """
    path = Path(path)
    if path.is_dir():
        found = find_weights(path)
        if found is None:
            raise UserError(f"{path}: contains no weights; looked for {', '.join(WEIGHT_FILES)}")
        return found
    if path.is_file():
        return path
    saved = path.with_name("model.safetensors")
    if path.suffix == ".bin" and saved.is_file():
        logger.info(f"{path}: not found; reading {saved} instead")
        return saved
    raise UserError(f"{path}: no such file; give a model directory, a .safetensors or a .bin file")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a weights file, of a sharded one (its ``.index.json``) or of a model directory, on the CPU.

    ``gamma`` and ``beta`` of old checkpoints become ``weight`` and ``bias`` under LayerNorm, and only there. Nothing in the
    file is executed: safetensors holds no code, and ``.bin`` is read with ``weights_only=True``.

    Raises:
        UserError: no such file, or it is damaged or holds more than tensors.
    """
    path = weights_file(path)
    if path.name.endswith(".index.json"):
        tensors = {}
        for shard in _shards(path):
            tensors.update(_read_file(shard))
    else:
        tensors = _read_file(path)
    return {_modern_name(name): tensor for name, tensor in tensors.items()}


def read_model(path: str | Path, config: EncoderConfig) -> dict[str, Tensor]:
    """``read_weights`` for this model: names of bert4torch become Hugging Face's, tables that the model has larger grow."""
    return with_larger_tables(to_hugging_face(read_weights(path), config), config)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{index}: not a weight index (a JSON object with a weight_map is expected)") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index}: shard {name!r} lies outside the model directory")
        if not beside(index, name).is_file():
            raise UserError(f"{index}: shard {name} is missing; download the model again")
    return [index.parent / name for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                expected = (file.metadata() or {}).get(_CHECKSUM)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # SafetensorError, or torch's error for a type that it lacks
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: damaged, or not a safetensors file ({reason})") from None
        if expected is not None and tensors_checksum(tensors) != expected:
            raise UserError(f"{path}: damaged: its numbers are not those that were saved; restore a copy, or train again")
        return tensors
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything: IndexError, AssertionError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as plain weights, and nothing else is loaded ({reason})") from None
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(
        isinstance(x, Tensor) and isinstance(name, str) for name, x in loaded.items()
    ):
        raise UserError(f"{path}: holds more than named tensors; save a state_dict")
    odd = next((name for name, x in loaded.items() if x.layout != torch.strided or x.device.type != "cpu"), None)
    if odd is not None:
        raise UserError(f"{path}: {odd!r} is not a dense tensor (sparse, or without values); save dense ones")
    # One number may stand for a whole tensor (``expand``), which takes its full size once it is copied.
    sizes = {name: x.numel() * x.element_size() for name, x in loaded.items()}
    expanded = [name for name, x in loaded.items() if sizes[name] > x.untyped_storage().nbytes()]
    if expanded:
        check_memory(path, listed([repr(name) for name in expanded]), sum(sizes[name] for name in expanded))
    return loaded


def _modern_name(name: str) -> str:
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def base_prefix(config: EncoderConfig, tensors: dict[str, Tensor], source: str | Path) -> str:
    """The prefix of the encoder's names in a checkpoint: ``bert.``, ``encoder.``, ``module.bert.``, or nothing.

    Raises:
        UserError: the checkpoint contains no encoder of this family.
    """
    words = f"{config.family.weights['embeddings.word']}.weight"
    found = sorted((name.removesuffix(words) for name in tensors if name.endswith(words)), key=len)
    if not found:
        raise UserError(f"{source}: contains no encoder ({words} is missing); is it a {config.model_type} checkpoint?")
    return found[0]


def wrapper_prefix(tensors: dict[str, Tensor]) -> str:
    """``module.`` if the checkpoint was saved from inside DistributedDataParallel, which puts it before every name."""
    return "module." if any(name.startswith("module.") for name in tensors) else ""


def copy_weights(module: nn.Module, names: dict[str, str], tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy ``tensors[names[parameter]]`` into every parameter that ``names`` lists.

    Raises:
        UserError: a tensor is missing or has another shape; all are listed, and nothing is copied.
    """
    parameters = module.state_dict(keep_vars=True)
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise UserError(f"{source}: {len(missing)} weights of the model are missing: {listed(missing)}")
    wrong = other_shapes(module, names, tensors)
    wrong += [
        f"{theirs} has type {tensors[theirs].dtype}, expected floating point"
        for theirs in names.values()
        if not tensors[theirs].dtype.is_floating_point
    ]
    if wrong:
        raise UserError(f"{source}: the weights do not fit the model: {listed(wrong)}")
    with torch.no_grad():
        for ours, theirs in names.items():
            parameters[ours].copy_(tensors[theirs])


def other_shapes(module: nn.Module, names: dict[str, str], tensors: dict[str, Tensor]) -> list[str]:
    """A message for each tensor whose shape differs from its parameter's."""
    parameters = module.state_dict(keep_vars=True)
    return [
        f"{theirs} is {list(tensors[theirs].shape)}, expected {list(parameters[ours].shape)}"
        for ours, theirs in names.items()
        if theirs in tensors and tensors[theirs].shape != parameters[ours].shape
    ]


def listed(items: Sequence[str], most: int = 8) -> str:
    """The first ``most`` items, and how many more there are."""
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")


def fill_encoder(
    encoder: Encoder, tensors: dict[str, Tensor], source: str | Path, pooler_required: bool = False
) -> set[str]:
    """Fill an encoder from a checkpoint of any head.

    Only the pooler may be missing; it then starts from random weights. Set ``pooler_required`` if nothing will train it.

    Returns:
        The names in ``tensors`` that the encoder took.

    Raises:
        UserError: weights are missing or do not fit.
    """
    prefix = base_prefix(encoder.config, tensors, source)
    table = f"{prefix}{encoder.config.family.rotary}"
    if table in tensors and not _are_sines(tensors[table], encoder.config.head_size):
        rows = tensors[table].shape[:1].numel()
        if rows < encoder.config.max_position_embeddings:
            raise UserError(f"{source}: {table} has {rows} trained positions; give a --max_seq_length of at most that")
        encoder.embeddings.rotary = Embedding(rows, encoder.config.head_size)
        logger.info(f"{source}: {table} was trained; it is used and trained on in place of sines")
    parameters = list(encoder.state_dict())
    names = {ours: prefix + theirs for ours, theirs in hugging_face_names(encoder.config, parameters).items()}
    pooler = {ours: theirs for ours, theirs in names.items() if ours.startswith("pooler.")}
    if pooler and not pooler_required and not any(theirs in tensors for theirs in pooler.values()):
        logger.warning(
            f"{source}: this checkpoint has no pooler; it starts from random weights. --pooling_mode mean needs none"
        )
        names = {ours: theirs for ours, theirs in names.items() if ours not in pooler}
        encoder.pooler.apply(encoder.initialise)
    copy_weights(encoder, names, tensors, source)
    if encoder.config.sharing:
        shared = dict(encoder.named_parameters(remove_duplicate=False))
        other = [theirs for ours, theirs in names.items() if not torch.equal(shared[ours], tensors[theirs].to(shared[ours]))]
        if other:  # what layers share was copied once for each of them
            raise UserError(
                f"{source}: config.json says sharing {encoder.config.sharing}, but layers differ: {listed(other)}"
            )
    return set(names.values()) | ({table} & set(tensors))


def _are_sines(table: Tensor, width: int) -> bool:
    """Whether a table of rotary positions holds the sines that are computed anyway, perhaps rounded to 16 bits."""
    if table.dim() != 2 or table.shape[1] != width:
        return False
    away = (table.float() - sinusoids(len(table), width)).abs().max()
    return any(away <= most and torch.equal(table.to(kind).float(), table.float()) for kind, most in _ROUNDED.items())


def load_encoder(
    directory: str | Path, with_pooler: bool = False, config: EncoderConfig | None = None
) -> tuple[Encoder, dict[str, Tensor]]:
    """Build the encoder that a model directory describes and fill it from the weights there.

    Args:
        directory: holds ``config.json`` and weights; without weights the encoder starts from scratch, which is logged.
        with_pooler: whether the head on top uses BERT's pooler.
        config: used instead of the directory's own, for example with another dropout.

    Returns:
        The encoder, and the checkpoint's tensors that it did not take: a head may find its own there.

    Raises:
        UserError: encoder weights are missing or do not fit; all are named.
    """
    config = config or load_config(directory)
    weights = find_weights(directory)
    if weights is None:
        logger.warning(f"{directory}: contains no weights; the encoder starts from scratch, with random ones")
        return Encoder(config, with_pooler), {}
    encoder, tensors = Encoder(config, with_pooler, initialise=False), read_model(weights, config)
    taken = fill_encoder(encoder, tensors, weights)
    return encoder, {name: tensor for name, tensor in tensors.items() if name not in taken}


def report_unused(rest: dict[str, Tensor], source: str | Path) -> None:
    """Log in one line which weights of a checkpoint the model does not use: mostly heads of other tasks."""
    names = sorted({name.rsplit(".", 1)[0] for name in rest if not name.endswith("position_ids")})
    if names:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        logger.info(f"{source}: unused weights: {shown}")


def encoder_tensors(encoder: Encoder, prefix: str | None = None) -> dict[str, Tensor]:
    """The encoder's weights under Hugging Face's names; ``prefix`` None takes the family's (``bert.``)."""
    prefix = encoder.config.family.base_prefix if prefix is None else prefix
    parameters = encoder.state_dict(keep_vars=True)
    names = hugging_face_names(encoder.config, list(parameters))
    own = {name for name, _ in encoder.named_parameters()}
    tensors = {}
    for ours, tensor in parameters.items():  # what layers share is saved once for each
        tensors[prefix + names[ours]] = tensor.detach() if ours in own else tensor.detach().clone()
    config = encoder.config
    if config.family.rotary and encoder.embeddings.rotary is None:
        tensors[prefix + config.family.rotary] = sinusoids(config.max_position_embeddings, config.head_size)
    return tensors
