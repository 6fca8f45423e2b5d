"""From a name to a local model directory: a local folder, or a repository of the Hugging Face hub."""

import hashlib
from pathlib import Path

from loguru import logger

from bertorch.cache import cache_root
from bertorch.encoder.config import config_path, read_config
from bertorch.encoder.weights import WEIGHT_FILES, find_weights
from bertorch.errors import UserError
from bertorch.writing import whole_folder

_SMALL_FILES = ["*.json", "*.txt", "*.model"]  # configuration, tokenizer, weight indices
_CONFIGS = ("config.json", "bert_config.json")
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "spiece.model", "sentencepiece.bpe.model")


def local_directory(name_or_path: str) -> Path:
    """The directory of a model: ``name_or_path`` if that is a directory, else downloaded from the hub or its cache.

    ``huggingface_hub`` honours ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN``.

    Raises:
        UserError: neither a directory nor a repository that can be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if config_path(path).name != "config.json":
            logger.info(f"{path}: no config.json; reading {config_path(path).name} instead")
        return path
    if path.exists():
        raise UserError(f"{name_or_path}: this is a file; give the directory that holds config.json, vocabulary and weights")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"{name_or_path}: no such directory")
    return _from_hub(name_or_path)


def _from_hub(repo_id: str) -> Path:
    # Only a name that is not a directory needs the hub's client, and importing it takes a while.
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(repo_id, allow_patterns=_SMALL_FILES))
        if find_weights(directory) is not None and not find_weights(directory).name.endswith(".index.json"):
            return directory
        unreachable = None
        for name in WEIGHT_FILES:
            if name.endswith(".index.json"):
                if (directory / name).is_file():  # came with the small files; fetch its shards
                    suffix = "*.safetensors" if "safetensors" in name else "*.bin"
                    return Path(snapshot_download(repo_id, allow_patterns=[*_SMALL_FILES, suffix]))
                continue
            try:
                return Path(hf_hub_download(repo_id, name)).parent
            except LocalEntryNotFoundError as error:  # offline; the cache may hold the weights in another form
                unreachable = error
            except EntryNotFoundError:
                continue
        if unreachable is not None:
            raise unreachable
    except HFValidationError:
        raise UserError(f"{repo_id}: no such directory, and not a valid name of a hub repository") from None
    except Exception as error:  # besides its own errors, the client raises those of httpx and of the JSON reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repo_id}: no such directory, and the hub gave no model of that name ({reason}); give a local directory, "
            "or set HF_ENDPOINT to a mirror you can reach"
        ) from None
    return directory


def renamed_directory(
    directory: Path,
    config_file: str | Path | None,
    vocab_file: str | Path | None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Make a directory of links in the cache, where a model's configuration and vocabulary have their standard names.

    Args:
        directory: the model's.
        config_file: the file to use as ``config.json``: a path, or the name of a file in ``directory``.
        vocab_file: likewise for the vocabulary: a ``vocab.txt``, SentencePiece's ``.model`` or a ``tokenizer.json``, told
            apart by their endings. The vocabulary in ``directory`` is left out.
        cache_dir: None takes ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.

    Returns:
        The directory of links; ``directory`` itself if both files are None.

    Raises:
        UserError: no such file, or not a configuration.
    """
    if config_file is None and vocab_file is None:
        return directory
    links = {path.name: path.resolve() for path in directory.iterdir() if not path.name.startswith(".")}
    if config_file is not None:
        path = _named_file("config_file", config_file, directory)
        read_config(path)  # so that errors name the file that the user named
        links = {name: target for name, target in links.items() if name not in _CONFIGS} | {"config.json": path}
    if vocab_file is not None:
        path = _named_file("vocab_file", vocab_file, directory)
        name = {".json": "tokenizer.json", ".model": "spiece.model"}.get(Path(vocab_file).suffix, "vocab.txt")
        config = links.get("config.json", config_path(directory))
        if name == "spiece.model" and read_config(config).model_type in ("xlm-roberta", "camembert"):
            name = "sentencepiece.bpe.model"
        links = {name: target for name, target in links.items() if name not in VOCABULARIES} | {name: path}
    listed = "\n".join(f"{name}\t{target}" for name, target in sorted(links.items()))
    key = hashlib.blake2b(listed.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    renamed = cache_root(cache_dir) / "renamed" / key
    if not renamed.is_dir():
        try:
            with whole_folder(renamed, flush=False) as unfinished:
                for name, target in links.items():
                    (unfinished / name).symlink_to(target)
        except OSError as error:
            if not renamed.is_dir():  # otherwise another process was faster
                raise UserError(f"{renamed}: cannot be written ({error.strerror or error})") from None
    logger.info(f"{directory}: read through links in {renamed}")
    return renamed


def _named_file(flag: str, name: str | Path, directory: Path) -> Path:
    paths = (Path(name).expanduser(), directory / name)
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UserError(f"--{flag} {name}: no such file, neither here nor in {directory}")
    return found.resolve()
