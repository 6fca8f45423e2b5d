"""From a name to a local model directory: a folder here, or a repository of the Hugging Face hub."""

from pathlib import Path

from bertorch.encoder.weights import WEIGHT_FILES, find_weights
from bertorch.errors import UserError

_SMALL_FILES = ["*.json", "*.txt", "*.model"]  # configuration, tokenizer, weight indices


def local_directory(name_or_path: str) -> Path:
    """The directory of a model: ``name_or_path`` itself where it is one, else downloaded from the hub or its cache.

    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` are honoured by ``huggingface_hub``.

    Raises:
        UserError: neither a directory nor a repository that can be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{name_or_path}: a file; give the directory that holds config.json, vocabulary and weights")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"{name_or_path}: no such directory")
    return _from_hub(name_or_path)


def _from_hub(repo_id: str) -> Path:
    # Only a name that is no directory needs the hub's client, and importing it takes a while.
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
        raise UserError(f"{repo_id}: no such directory, and no valid name of a hub repository") from None
    except Exception as error:  # besides its own errors the client lets through those of httpx and of the JSON reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repo_id}: no such directory, and the hub gave no model of that name ({reason}); give a local directory, "
            "or set HF_ENDPOINT to a mirror you can reach"
        ) from None
    return directory
