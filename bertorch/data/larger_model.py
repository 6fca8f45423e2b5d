"""A model that gets more than it was trained with: tokens of its own, and positions for longer texts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loguru import logger
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from bertorch.cache import cache_root
from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder.config import EncoderConfig, config_path, load_config
from bertorch.encoder.hub import VOCABULARIES
from bertorch.errors import UserError
from bertorch.writing import whole_folder

_REPLACED = {
    *VOCABULARIES, "30k-clean.model", "config.json", "bert_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
}  # fmt: skip


def larger_model(
    directory: Path,
    max_seq_length: int,
    add_tokens: Sequence[str] = (),
    extend_positions: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """Make a directory in the cache whose tokenizer and configuration describe the larger model; weights stay links.

    ``read_model`` grows the tables when it reads weights for that configuration. The embeddings grow for ``add_tokens``,
    and for tokens that were added to the directory's tokenizer, but not to its model.

    Args:
        directory: the model's.
        max_seq_length: the longest sequence. A family without a table of positions takes any; this is logged.
        add_tokens: text that is to be one token each; those that the vocabulary has, such as ``[unused1]``, take its rows.
        extend_positions: whether a table of positions grows to ``max_seq_length``; see ``extended_positions``.
        cache_dir: None takes ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.

    Returns:
        The directory in the cache; ``directory`` itself if nothing has to grow.

    Raises:
        UserError: a token is blank, or the table of positions cannot grow that far.
    """
    config, tokenizer = load_config(directory), load_tokenizer(directory)
    before = tokenizer.get_vocab()
    new = [token for token in dict.fromkeys(add_tokens) if token not in tokenizer.added_tokens_encoder]
    if any(not token.strip() for token in new):
        raise UserError("--add_tokens: a token is blank; give text")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in new])
    if any(tokenizer.added_tokens_encoder[token] in before.values() for token in new if token not in before):
        raise UserError(
            f"{directory}: its vocabulary holds a word twice, so a new token would take another's id; remove one"
        )
    larger = _larger_config(config, tokenizer, max_seq_length, extend_positions, directory)
    if not new and larger is config:
        return directory
    key = f"{directory.resolve()}|{max_seq_length}|{new}|{extend_positions}|" + "|".join(
        f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(directory.iterdir())
    )
    made = cache_root(cache_dir) / "larger" / hashlib.blake2b(key.encode(errors="replace"), digest_size=16).hexdigest()
    tokenizer.model_max_length = max(tokenizer.model_max_length, larger.max_seq_length)
    if not made.is_dir():
        try:
            with whole_folder(made, flush=False) as unfinished:
                for path in directory.iterdir():
                    if path.name not in _REPLACED and not path.name.startswith("."):
                        (unfinished / path.name).symlink_to(path.resolve())
                tokenizer.save_pretrained(unfinished)
                raw = json.loads(config_path(directory).read_text(encoding="utf-8"))
                written = {**raw, **larger.to_dict(), "larger_than": larger.larger_than}
                (unfinished / "config.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
        except OSError as error:
            if not made.is_dir():  # otherwise another process was faster
                raise UserError(f"{made}: cannot be written ({error.strerror or error})") from None
    return made


def _larger_config(
    config: EncoderConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    extend_positions: bool,
    directory: Path,
) -> EncoderConfig:
    """The configuration with more tokens and positions; ``config`` itself if it stays as it is."""
    changes = {}
    added, known = tokenizer.added_tokens_encoder, tokenizer.get_vocab()
    own = max((number for token, number in known.items() if token not in added), default=-1)
    needed = max(known.values()) + 1
    if own < config.vocab_size < needed:  # a vocabulary that is too large itself is another model's
        changes["vocab_size"] = needed
        logger.info(f"{directory}: embeddings for {needed - config.vocab_size} more tokens, which start as the mean of all")
    trained, has_table = config.max_seq_length, config.has("embeddings.position")
    if max_seq_length > trained and has_table and extend_positions:
        if max_seq_length > trained**2:
            raise UserError(f"--max_seq_length {max_seq_length}: {trained} positions make at most {trained**2}")
        changes["max_position_embeddings"] = max_seq_length + config.position_offset
        if config.relative_attention and config.max_relative_positions < 1:  # DeBERTa's distances go as far as before
            changes["max_relative_positions"] = config.max_position_embeddings
        logger.info(f"{directory}: {max_seq_length} positions made of the {trained} trained ones")
    elif max_seq_length > trained and not has_table:
        if config.family.rotary or config.family.distance_sines:  # transformers makes its tables as large as this says
            changes["max_position_embeddings"] = max_seq_length
        logger.info(f"{directory}: --max_seq_length {max_seq_length} is beyond the {trained} tokens of its training")
    if not changes:
        return config
    return replace(config, **changes, larger_than={name: getattr(config, name) for name in changes})
