"""Saved directories and training states. Every write is complete or absent.

``saved_dir`` is a Hugging Face directory with ``bertorch.json`` beside it; ``saved_dir/training_state/step-N`` holds
what a killed run needs to continue.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import bertorch
from bertorch.checksums import compare_checksums, write_checksums
from bertorch.encoder.config import read_json_object
from bertorch.encoder.weights import read_weights, write_weights
from bertorch.errors import UserError
from bertorch.reporting.runs import DATA_REPORT, DESCRIPTION, EVALUATION, REPORT, STATES
from bertorch.training.saving import on_host, wait_for, write_later
from bertorch.writing import whole_folder, write_all, write_whole, writing

# What a run leaves in its directory and --overwrite removes: its model and the other files that a new run writes.
_MODEL_FILES = (
    DESCRIPTION, "model.safetensors", "config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
)  # fmt: skip
_RUN_FILES = (*_MODEL_FILES, "metrics.jsonl", "test_predictions.*", "seeds.json")
_FOREIGN_WEIGHTS = "pytorch_model.bin"  # the file name in the original bertorch
_RUN_FOLDERS = (STATES, "tensorboard")
_RECORDS = (EVALUATION, DATA_REPORT, REPORT)  # removed too, but not a sign of a run: other tools may use these names


def _json_writer(content: dict | list) -> Callable[[Path], Any]:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    return lambda path: path.write_text(text, encoding="utf-8")


def _writer(name: str, content: Any) -> Callable[[Path], Any]:
    """What writes JSON, or the tensors of a ``.safetensors`` file."""
    if not name.endswith(".safetensors"):
        return _json_writer(content)
    tensors = {name: tensor.float() for name, tensor in content.items()}
    return lambda path: write_weights(path, tensors)


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON through ``write_whole``: complete or absent."""
    write_whole(path, _json_writer(content))


def save_model(
    directory: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    later: bool = False,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Write a Hugging Face directory, from which transformers predicts the same, and ``bertorch.json``.

    Args:
        directory: gets the tokenizer's files first, then all others together.
        model: a head; only its ``encoder.config`` and ``saved_files(max_seq_length)`` are used.
        tokenizer: saved with the model.
        description: for ``bertorch.json``; ``labels`` also become the config's ``id2label``.
        evaluation: for ``evaluation.json``; None keeps the existing file.
        later: copy the weights and return; a thread writes them (see ``saving.py``).
        then: is called when all is written.

    Files of an earlier model that this one does not have are removed last.
    """
    if later:
        wait_for("model")
    with writing(directory):  # not by the thread: a tokenizer must not be used by two at once
        tokenizer_files = {directory / name: content for name, content in _tokenizer_files(tokenizer, directory).items()}
    files = _files_of(model, tokenizer, description, evaluation)
    writers = {directory / name: _writer(name, content) for name, content in (on_host(files) if later else files).items()}

    def write() -> None:
        before = _model_parts(directory)
        write_all({path: lambda unfinished, content=content: unfinished.write_bytes(content)
                   for path, content in tokenizer_files.items()})  # fmt: skip
        write_all(writers)
        own = {path.relative_to(directory).parts[0] for path in writers}
        _remove(path for path in before if path.name not in own)
        then()

    if later:
        write_later("model", write)
    else:
        write()


def _tokenizer_files(tokenizer: PreTrainedTokenizerBase, directory: Path) -> dict[str, bytes]:
    """The content of a tokenizer's files, by name."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".tmp", ".tokenizer.", directory, ignore_cleanup_errors=True) as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _files_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
    evaluation: dict[str, Any] | None,
) -> dict[str, Any]:
    """The files of a saved directory, but for the tokenizer's: name -> JSON content, or tensors for ``.safetensors``."""
    files = model.saved_files(description["max_seq_length"])
    config = files["config.json"]
    if not model.encoder.config.position_offset and tokenizer.pad_token_id is not None:
        config["pad_token_id"] = tokenizer.pad_token_id  # some configs are wrong; RoBERTa's sets its positions and stays
    if "labels" in description:
        config["id2label"] = {str(index): label for index, label in enumerate(description["labels"])}
        config["label2id"] = {label: index for index, label in enumerate(description["labels"])}
    files[DESCRIPTION] = {**description, "versions": _versions()}
    if evaluation is not None:
        files[EVALUATION] = evaluation
    return files


def _versions() -> dict[str, str]:
    return {
        "bertorch": bertorch.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def read_description(directory: str | Path) -> dict[str, Any] | None:
    """Read a saved directory's ``bertorch.json``; None if it has none (another tool wrote the directory).

    Raises:
        UserError: the file is damaged.
    """
    path = Path(directory) / DESCRIPTION
    if not path.is_file():
        return None
    description = read_json_object(path)
    if "task" not in description:
        raise UserError(f"{path}: not a description of a model (no task in it)")
    return description


def holds_run(directory: Path) -> bool:
    return any(_found(directory, (*_RUN_FILES, *_RUN_FOLDERS, _FOREIGN_WEIGHTS)))


def _found(directory: Path, names: Iterable[str]) -> Iterator[Path]:
    return (path for name in names for path in directory.glob(name))


def starts_from_itself(args: argparse.Namespace) -> bool:
    """Whether a run starts from the model in its own ``--saved_dir``."""
    directory = Path(args.saved_dir).resolve()
    named = [Path(name).resolve() for name in (args.init_from_ckpt, args.pretrained_model_name_or_path) if name]
    return any(directory in (path, path.parent) for path in named)


def refuse_run(args: argparse.Namespace, directory: Path) -> None:
    """Raise a UserError: ``directory`` holds a run, and no flag says what to do with it."""
    if starts_from_itself(args):
        raise UserError(
            f"--saved_dir {directory} already holds a run, and this one starts from its model; name another directory with "
            f"--saved_dir, or give --overwrite, which replaces the model when the new one is first saved"
        )
    raise UserError(f"--saved_dir {directory} already holds a run; continue it with --resume or replace it with --overwrite")


def check_saved_dir(args: argparse.Namespace) -> None:
    """Refuse to start where a run already is, unless a flag says what to do with it.

    Raises:
        UserError: neither ``--resume`` nor ``--overwrite`` is given, or the one given cannot be followed.
    """
    directory = Path(args.saved_dir)
    if args.overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        raise UserError(
            f"torchrun has restarted this run and --overwrite would remove what it saved in {directory}; start it with "
            f"--resume, which starts from scratch if there is no run"
        )
    if holds_run(directory) and not (args.resume or args.overwrite):
        refuse_run(args, directory)
    if args.resume and holds_run(directory) and not (directory / STATES).is_dir():
        raise UserError(f"--saved_dir {directory} holds a model but no training state to resume; name another directory")


def prepare_saved_dir(directory: Path, overwrite: bool, keep_model: bool = False) -> None:
    """Make the directory; with ``overwrite``, remove an earlier run from it.

    With ``keep_model``, the old model stays until ``save_model`` replaces it, so a failed start can be repeated.
    """
    with writing(directory):
        if overwrite:
            model = _model_parts(directory)
            rest = _found(directory, (*_RUN_FILES, *_RUN_FOLDERS, *_RECORDS))
            _remove([*(path for path in rest if path not in model), *(() if keep_model else model)])
        (directory / STATES).mkdir(parents=True, exist_ok=True)


def _model_parts(directory: Path) -> list[Path]:
    """Files and folders of the model in a directory, without the tokenizer's."""
    parts = directory.glob("[0-9]_*") if (directory / "modules.json").is_file() else ()  # of sentence-transformers
    names = (*_MODEL_FILES, _FOREIGN_WEIGHTS)
    return [*parts, *_found(directory, names)]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def save_state(
    directory: Path, step: int, model: nn.Module, tensors: dict[str, Any], state: dict[str, Any], later: bool = False
) -> None:
    """Write ``training_state/step-N``, then remove the older ones.

    Args:
        directory: the saved directory.
        step: number of updates so far.
        model: saved under bertorch's own parameter names.
        tensors: optimizer, random generators, loss scaler; anything that ``torch.load(weights_only=True)`` can read.
        state: counters and scores, as JSON.
        later: copy the tensors and return; a thread writes them (see ``saving.py``).
    """
    states = directory / STATES
    final = states / f"step-{step:08d}"
    weights, text = dict(model.named_parameters()), json.dumps(state, indent=2)
    if later:
        wait_for("state")
        weights, tensors = on_host((weights, tensors))

    def write() -> None:
        with writing(final), whole_folder(final) as unfinished:
            write_weights(unfinished / "model.safetensors", weights)
            with open(unfinished / "tensors.pt", "wb") as handle:
                torch.save(tensors, handle)
            (unfinished / "state.json").write_text(text, encoding="utf-8")
            write_checksums(unfinished)
        for path in states.iterdir():
            if path != final:
                shutil.rmtree(path, ignore_errors=True)

    if later:
        write_later("state", write)
    else:
        write()


def load_state(
    path: Path, model: nn.Module, check: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fill ``model`` from a training state; return the state's ``tensors`` and ``state``.

    ``check`` gets the state before the model is changed, and may raise a UserError.

    Raises:
        UserError: the state is damaged, or belongs to another model.
    """
    try:
        compare_checksums(path)
        state = read_json_object(path / "state.json")
        tensors = torch.load(path / "tensors.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything, even IndexError or AssertionError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged training state ({reason}); start again with --overwrite") from None
    if check is not None:
        check(state)
    weights: dict[str, Tensor] = read_weights(path / "model.safetensors")
    parameters = dict(model.named_parameters())
    if {name: tensor.shape for name, tensor in weights.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(f"{path}: the training state of another model; use the flags this run was started with")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return tensors, state
