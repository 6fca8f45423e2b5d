"""Convert TensorFlow checkpoints of BERT and ALBERT, and of models that use their names, to a Hugging Face directory."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loguru import logger
from safetensors.torch import save

from bertorch.cache import cache_root
from bertorch.encoder.albert_tokenizer import make_albert_tokenizer, saved_files
from bertorch.encoder.config import read_json_object
from bertorch.encoder.tensorflow_names import OPTIMIZER, hugging_face_config, hugging_face_tensors
from bertorch.errors import UserError
from bertorch.writing import whole_folder

_VERSION = 2  # of the files written; a new number makes the cache convert again


class _Files(NamedTuple):
    """A checkpoint on disk; its files are named ``prefix`` plus an ending (.index, .data-00000-of-00001)."""

    prefix: Path
    config: Path
    vocabulary: Path


def convert_checkpoint(
    checkpoint: str | Path,
    output_dir: str | Path,
    config_file: str | Path | None = None,
    vocab_file: str | Path | None = None,
    cased: bool | None = None,
) -> Path:
    """Write a TensorFlow checkpoint as a Hugging Face directory: complete or absent.

    Args:
        checkpoint: its prefix (``dir/bert_model.ckpt``), its ``.index`` file, or a directory with one checkpoint.
        output_dir: must not exist, or be empty.
        config_file: by default the only ``*config*.json`` beside the checkpoint.
        vocab_file: a ``vocab.txt``, or the ``.model`` of SentencePiece; by default the only one beside the checkpoint.
        cased: whether the tokenizer keeps capitals and accents; None: as the configuration says (``do_lower_case``), else
            whether the folder name says cased.

    Raises:
        UserError: a file is missing or damaged, files do not fit each other, or ``output_dir`` is in use.
    """
    directory = Path(output_dir).expanduser().resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{output_dir}: is in use; name a directory that is empty or does not exist")
    files = _find_files(checkpoint, config_file, vocab_file)
    raw = read_json_object(files.config)
    lower = _lower_case(files, raw, cased)
    variables = read_variables(files.prefix)
    config = hugging_face_config(raw, variables, files.config)
    tensors = hugging_face_tensors(variables, config, files.prefix)
    vocabulary = files.vocabulary.read_bytes()
    kind = "ForMaskedLM" if "cls/predictions/output_bias" in variables else "Model"
    if "cls/seq_relationship/output_bias" in variables:
        kind = "ForPreTraining"
    architecture = f"{config.family.class_prefix}{kind}"
    tokenizer = {"do_lower_case": lower, "model_max_length": config.max_position_embeddings}
    if files.vocabulary.suffix == ".model":
        albert = make_albert_tokenizer(vocabulary, files.vocabulary, **tokenizer)
        words = len(albert)
        tokenizer_files = saved_files(albert)
    else:
        words = vocabulary.rstrip(b"\r\n").count(b"\n") + 1  # not splitlines(): U+2028 is a word in Chinese vocabularies
        settings = {**tokenizer, "tokenizer_class": "BertTokenizer"}
        tokenizer_files = {"vocab.txt": vocabulary, "tokenizer_config.json": _json(settings)}
    if words > config.vocab_size:
        raise UserError(f"{files.vocabulary}: {words} words, {files.prefix} has embeddings for {config.vocab_size}")
    if words < config.vocab_size:
        logger.warning(f"{files.vocabulary}: {words} words for {config.vocab_size} embeddings; is it this model's?")
    contents = {
        **tokenizer_files,
        "config.json": _json({**config.to_dict(), "architectures": [architecture]}),
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
    }
    _write(directory, contents)
    weights = sum(tensor.numel() for tensor in tensors.values())
    logger.info(
        f"{directory}: {architecture} of {config.num_hidden_layers} layers and {weights:,} weights, "
        f"{'lower case' if lower else 'cased'}, from {files.prefix}"
    )
    return directory


def converted_directory(
    path: str | Path,
    cache_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    vocab_file: str | Path | None = None,
) -> Path:
    """Run ``convert_checkpoint`` into the cache, once per content; returns the Hugging Face directory there.

    Several processes may do this at once; all use the directory of the first to finish.

    Args:
        path: the checkpoint.
        cache_dir: None takes ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.
        config_file, vocab_file: as ``convert_checkpoint``.

    Raises:
        UserError: as ``convert_checkpoint``.
    """
    files = _find_files(path, config_file, vocab_file)
    prefix, config, vocabulary = files
    key = hashlib.blake2b(f"{_VERSION}|{_lower_case(files, read_json_object(config), None)}".encode(), digest_size=16)
    for file in (Path(f"{prefix}.index"), config, vocabulary):
        key.update(hashlib.blake2b(file.read_bytes()).digest())
    for file in sorted(prefix.parent.iterdir()):
        if file.name.startswith(f"{prefix.name}.data-"):
            key.update(f"|{file.name[len(prefix.name) :]}|{file.stat().st_size}".encode())
    directory = cache_root(cache_dir) / "tensorflow" / key.hexdigest()
    if not directory.is_dir():
        try:
            convert_checkpoint(prefix, directory, config, vocabulary)
        except UserError:
            if not directory.is_dir():  # otherwise another process was faster
                raise
    return directory


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """The variables of a TensorFlow checkpoint, without the optimizer's, by name; TensorFlow is needed only here.

    Raises:
        UserError: TensorFlow is not installed, or cannot read the files.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN logs a notice, and nothing is computed here
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            f"{prefix}: a TensorFlow checkpoint needs TensorFlow ({error}): pip install tensorflow-cpu"
        ) from None
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if not OPTIMIZER.search(name)]
        return {name.removeprefix("module/"): np.asarray(reader.get_tensor(name)) for name in names}  # module/: TF Hub's
    except Exception as error:  # it has many classes, including TensorFlow's own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{prefix}: damaged, or not a TensorFlow checkpoint ({reason})") from None


def _find_files(checkpoint: str | Path, config_file: str | Path | None, vocab_file: str | Path | None) -> _Files:
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        prefix = _only(path.glob("*.index"), path, "*.index of a checkpoint", "give the path of one").with_suffix("")
    else:
        prefix = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
        if not Path(f"{prefix}.index").is_file():
            raise UserError(f"{checkpoint}: not a TensorFlow checkpoint; there is no {prefix}.index")
    folder, remedy = prefix.parent, "name it with --{}_file"
    configs = [path for path in folder.glob("*config*.json") if path.name != "tokenizer_config.json"]
    vocabularies = [*folder.glob("*vocab*.txt"), *folder.glob("*.model")]
    config = Path(config_file or _only(configs, folder, "*config*.json", remedy.format("config"))).expanduser()
    vocabulary = Path(
        vocab_file or _only(vocabularies, folder, "*vocab*.txt or *.model", remedy.format("vocab"))
    ).expanduser()
    for file in (config, vocabulary):
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    return _Files(prefix, config, vocabulary)


def _only(paths: Iterable[Path], folder: Path, what: str, remedy: str) -> Path:
    paths = sorted(paths)
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise UserError(f"{folder}: one {what} is expected here, found {found}; {remedy}")
    return paths[0]


def _lower_case(files: _Files, raw: dict[str, Any], cased: bool | None) -> bool:
    named_cased = re.search(r"(?<!un)cased", files.prefix.resolve().parent.name.lower()) is not None
    return not cased if cased is not None else bool(raw.get("do_lower_case", not named_cased))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def _write(directory: Path, contents: dict[str, bytes]) -> None:
    """Write all files, or none: into a folder beside ``directory``, flushed, then renamed."""
    try:
        with whole_folder(directory) as unfinished:  # may replace an empty directory, but not one with files
            for name, content in contents.items():
                (unfinished / name).write_bytes(content)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror or error})") from None
