"""From texts to token ids: a model directory's tokenizer, truncation, and a cache that all ranks map into memory."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from loguru import logger
from tokenizers import AddedToken, Regex, normalizers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RoFormerTokenizer,
)

import bertorch
from bertorch.cache import cache_root
from bertorch.checksums import compare_checksums, write_checksums
from bertorch.data.chinese import convert
from bertorch.data.files import open_binary
from bertorch.data.tables import files_of
from bertorch.encoder.albert_tokenizer import FILE_NAMES, find_albert_model, load_albert_tokenizer, read_sentencepiece
from bertorch.encoder.config import load_config, read_json_object
from bertorch.errors import UserError
from bertorch.writing import whole_folder

TRUNCATIONS = ("head", "tail", "head_tail")
AnySamples = TypeVar("AnySamples", bound="Samples")
_DEBERTA_MODEL = "spm.model"
_DEBERTA_TOKENS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "cls_token": "[CLS]",
    "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
_CHINESE = re.compile("[\u4e00-\u9fff]+")
_UNUSED = re.compile(r"\[unused\d+\]")  # BERT's free rows, for markers of the user's own
_CHUNK = 10_000  # rows tokenized at a time, so that a large corpus is never in memory as Python lists


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory.

    A ``vocab.txt`` without the files of another tokenizer is WordPiece, whatever family the config names: Chinese ALBERT
    and RoBERTa are published this way. English ALBERT has a ``spiece.model``, which Google calls ``30k-clean.model``, and
    gets the ids of Google's tokenizer from it, even beside a ``tokenizer.json``. A RoFormer whose vocabulary has Chinese
    words cuts texts with jieba first. A DeBERTa's ``spm.model`` or ``tokenizer.json`` gives the ids of SentencePiece.
    ``[unused1]`` and its like in a text are those tokens, if the vocabulary has them.
    Python code in the directory is never run, whatever its settings say.

    Raises:
        UserError: there is no vocabulary; transformers cannot read a file; a file names one outside the directory; or
            jieba is needed but missing.
    """
    directory = Path(directory)
    _check_named_files(directory)
    others = ("tokenizer.json", "merges.txt", *FILE_NAMES, "sentencepiece.bpe.model", _DEBERTA_MODEL)
    config = directory / "config.json"
    family = read_json_object(config).get("model_type") if config.is_file() else None
    try:
        if pieces := find_albert_model(directory):
            tokenizer = load_albert_tokenizer(pieces)
        elif (directory / "vocab.txt").is_file() and not any((directory / name).is_file() for name in others):
            kind = MPNetTokenizer if family == "mpnet" else BertTokenizer  # its special tokens are RoBERTa's
            tokenizer = kind.from_pretrained(directory)
        elif family == "deberta-v2":
            tokenizer = _deberta_tokenizer(directory)
        elif (
            family in ("roformer_v2", "nezha") and (directory / "tokenizer.json").is_file()
        ):  # AutoTokenizer does not know them
            tokenizer = BertTokenizer.from_pretrained(directory)
        elif any((directory / name).is_file() for name in others):
            # Without trust_remote_code transformers asks, and reads the answer from standard input: from our texts.
            tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True, trust_remote_code=False)
        else:
            raise UserError(f"{directory}: contains no vocabulary; looked for vocab.txt, {', '.join(others)}")
        if family in ("roformer", "roformer_v2"):
            tokenizer = _roformer_tokenizer(tokenizer)
        if family == "xlnet":  # segments are part of its attention; transformers 5 gives them only if it is told to
            tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
            tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
        tokenizer("ꙮ")  # a WordPiece vocabulary without [UNK] fails at the first word it lacks
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more specific
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{directory}: the tokenizer cannot be loaded ({reason})") from None
    if not tokenizer.is_fast:
        raise UserError(f"{directory}: its tokenizer has no fast version; save one as tokenizer.json")
    unused = [token for token in tokenizer.get_vocab() if _UNUSED.fullmatch(token)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in unused])  # in a text it is that token
    return tokenizer


def _deberta_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as ``tokenizer.json`` describes it, or as transformers 4 made it from ``spm.model``.

    transformers 5 makes it anew from the vocabulary alone, without the model's own normalisation: a full-width comma then is
    unknown. What is saved from here is opened as it is.
    """
    if (directory / "tokenizer.json").is_file():
        settings = directory / "tokenizer_config.json"
        given = read_json_object(settings) if settings.is_file() else {}
        roles = {role: token for role, token in _DEBERTA_TOKENS.items() if role not in given}
        return PreTrainedTokenizerFast.from_pretrained(directory, **roles)
    if not (directory / _DEBERTA_MODEL).is_file():
        raise UserError(f"{directory}: contains no vocabulary; looked for vocab.txt, tokenizer.json, {_DEBERTA_MODEL}")
    path = directory / _DEBERTA_MODEL
    proto, _ = read_sentencepiece(path.read_bytes(), path)
    made = DebertaV2Tokenizer.from_pretrained(directory)
    steps = [normalizers.Lowercase()] if made.do_lower_case else []
    charsmap = proto.normalizer_spec.precompiled_charsmap
    steps += [normalizers.Strip(), *([normalizers.Precompiled(charsmap)] if charsmap else [])]
    made.backend_tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
    kept = {name: getattr(made, name) for name in ("model_max_length", "model_input_names", "name_or_path")}
    return PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, **kept, **made.special_tokens_map)


def _roformer_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """``tokenizer``, or transformers' for RoFormer if the vocabulary has Chinese words, which WordPiece would never give.

    transformers 5.24 makes that class from a ``vocab.txt`` with the file's path in place of its words, and so finds none;
    here it gets the words.
    """
    words = tokenizer.get_vocab()
    known = (word for word in words if len(word) > 1 and _CHINESE.fullmatch(word))
    if isinstance(tokenizer, RoFormerTokenizer) or (word := min(known, key=words.get, default=None)) is None:
        return tokenizer
    if importlib.util.find_spec("rjieba") is None:
        raise UserError(
            f"{tokenizer.name_or_path}: its vocabulary has words such as {word}, which jieba finds in a text; install it: "
            "pip install rjieba"
        )
    kept = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "model_max_length", "name_or_path")
    settings = {name: tokenizer.init_kwargs[name] for name in kept if name in tokenizer.init_kwargs}
    words_too = RoFormerTokenizer(vocab=words, **settings, **tokenizer.special_tokens_map)
    words_too.add_tokens([token for token in tokenizer.added_tokens_decoder.values() if not token.special])
    return words_too


def _check_named_files(directory: Path) -> None:
    """Raises UserError if the tokenizer's settings name a file elsewhere.

    transformers ignores the paths that ``tokenizer_config.json`` often has under ``vocab_file`` and similar keys, and takes
    the directory's own files; the keys below it follows.
    """
    for name, keys in (
        ("tokenizer_config.json", ("vocab", "merges", "gguf_file")),
        ("special_tokens_map.json", ("vocab", "merges", "gguf_file", "vocab_file", "merges_file", "tokenizer_file")),
    ):
        path = directory / name
        try:
            settings = read_json_object(path) if path.is_file() else {}
        except UserError:  # transformers reads it too, or ignores it
            continue
        given = [settings.get(key) for key in keys]
        versions = settings.get("fast_tokenizer_files")  # of a tokenizer.json for several versions, by their names
        given += [file for file in versions if Path(str(file)).name != file] if isinstance(versions, list) else [versions]
        outside = next((file for file in given if isinstance(file, str)), None)
        if outside is not None:
            raise UserError(f"{path}: names the file {outside[:80]!r}, which does not belong to the directory; leave it out")


class TextTokenizer:
    """Token ids of one text or of a pair, special tokens and truncation included.

    Args:
        tokenizer: a fast tokenizer of transformers.
        max_seq_length: the most tokens a sequence may have, special tokens included.
        truncation: the part of a text that is kept if it is too long: its ``head``, its ``tail``, or ``head_tail``, a
            quarter from the start and the rest from the end (128 + 382 of 510 are best in Sun et al. 2019, section
            5.3.1). In a pair the longer text gives up tokens until both fit (BERT's ``longest_first``).
        chinese: convert texts to ``simplified`` or ``traditional`` characters first; None leaves them.
        max_part_lengths: the most tokens of each part of a row, before the whole is cut. Parts are the row's texts, and what
            separators such as ``[SEP]`` divide a text into; those without a limit of their own have none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
        truncation: str = "head",
        chinese: str | None = None,
        max_part_lengths: Sequence[int] | None = None,
    ):
        self.pretrained = tokenizer
        self.max_part_lengths = tuple(max_part_lengths or ())
        self.chinese = chinese
        self.convert("字")  # fails here if OpenCC is missing
        self.max_seq_length = max_seq_length
        self.truncation = truncation
        self.backend = tokenizer.backend_tokenizer
        side = "left" if truncation == "tail" else "right"  # for the next user of the saved tokenizer
        tokenizer.truncation_side = tokenizer.init_kwargs["truncation_side"] = side
        self.backend.no_truncation()
        self.backend.no_padding()
        self.layouts = {1: self._layout("a"), 2: self._layout("a", "b")}
        shortest = max(sum(len(part) for part in parts) + texts for texts, (parts, _) in self.layouts.items())
        if max_seq_length < shortest:
            raise UserError(
                f"--max_seq_length {max_seq_length} leaves no room for text besides special tokens; give at least {shortest}"
            )

    def _layout(self, *texts: str) -> tuple[list[list[int]], list[int]]:
        """The special tokens before, between and after the texts, and the segment id of each text."""
        encoded = self.backend.encode(*texts)
        parts: list[list[int]] = [[]]
        types = {}
        for token, sequence, token_type in zip(encoded.ids, encoded.sequence_ids, encoded.type_ids, strict=True):
            if sequence is None:
                parts[-1].append(token)
            elif len(parts) == sequence + 1:
                parts.append([])
                types[sequence] = token_type
        if len(parts) != len(texts) + 1:
            raise UserError(
                f"{self.pretrained.name_or_path}: the tokenizer drops a text or repeats it; check tokenizer.json"
            )
        return parts, [types[sequence] for sequence in range(len(texts))]

    @property
    def highest_id(self) -> int:
        """The highest id that ``encode`` may give."""
        special = (token for parts, _ in self.layouts.values() for part in parts for token in part)
        return max([*self.pretrained.get_vocab().values(), *special])

    def convert(self, text: str) -> str:
        """The text as it is encoded, with every character in its place."""
        return convert(text, self.chinese)

    def encode(self, rows: list[tuple[str, ...]]) -> list[tuple[list[int], int, int]]:
        """``(input_ids, where the second segment starts, tokens before truncation)`` of each row of texts.

        The second segment starts after the first separator, or at the end if the tokenizer has only one segment.
        """
        flat = [self.convert(text) for row in rows for text in row]
        encodings = iter(self.backend.encode_batch_fast(flat, add_special_tokens=False))
        return [self._assemble(*self._within_limits([one.ids for one in islice(encodings, len(row))])) for row in rows]

    def places(self, texts: tuple[str, ...]) -> tuple[list[tuple[int, int, int] | None], list[tuple[int, int] | None]]:
        """Where the tokens that ``encode`` gives for a row of texts come from.

        Returns:
            For each token ``(text, start, end)``, in characters, None for a special token; and for each text the start and
            end of what truncation left out, None if it left out nothing.
        """
        encodings = self.backend.encode_batch([self.convert(text) for text in texts], add_special_tokens=False)
        offsets = [encoding.offsets for encoding in encodings]
        # Truncate in the same way, with the tokens' numbers instead of their ids.
        numbers = [[(text, token) for token in range(len(own))] for text, own in enumerate(offsets)]
        limited, _ = self._within_limits([encoding.ids for encoding in encodings], numbers)
        kept = [place if isinstance(place, tuple) else None for place in self._assemble(limited)[0]]
        left_out = []
        for text, own in zip(numbers, offsets, strict=True):
            lost = [token for _, token in sorted(set(text).difference(kept))]
            left_out.append((own[lost[0]][0], own[lost[-1]][1]) if lost else None)
        return [place and (place[0], *offsets[place[0]][place[1]]) for place in kept], left_out

    def _within_limits(self, ids: list[list[int]], texts: list[list] | None = None) -> tuple[list[list], int]:
        """``texts`` (None: ``ids``) without what is beyond the limit of its part, and their length before that."""
        texts = ids if texts is None else texts
        length = sum(map(len, ids))
        if not self.max_part_lengths:
            return texts, length
        limits, kept = iter(self.max_part_lengths), []
        for own, text in zip(ids, texts, strict=True):
            ends = [place for place, number in enumerate(own) if number == self.pretrained.sep_token_id]
            kept.append([])
            for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(own)], strict=True):
                part = text[start:end]
                kept[-1] += _cut(part, next(limits, len(part)), self.truncation) + text[end : end + 1]
        return kept, length

    def _assemble(self, texts: list[list], uncut: int | None = None) -> tuple[list, int, int]:
        parts, types = self.layouts[len(texts)]
        special = sum(len(part) for part in parts)
        lengths = [len(text) for text in texts]
        budgets = _budgets(lengths, self.max_seq_length - special)
        kept = [_cut(text, budget, self.truncation) for text, budget in zip(texts, budgets, strict=True)]
        ids = parts[0] + kept[0] + parts[1]
        second = len(ids)
        if len(kept) == 2:
            ids = ids + kept[1] + parts[2]
            if types[1] == 0:
                second = len(ids)
        return ids, second, special + (sum(lengths) if uncut is None else uncut)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the same text would give other ids."""
        if isinstance(self.pretrained, RoFormerTokenizer):  # jieba cannot be written to a file
            backend = (sorted(self.pretrained.get_vocab().items()), self.backend.normalizer)
        else:
            backend = self.backend.to_str()
        settings = (bertorch.__version__, self.max_seq_length, self.truncation, self.chinese, self.max_part_lengths)
        state = "|".join(map(str, (*settings, backend)))
        return hashlib.blake2b(state.encode(), digest_size=16).hexdigest()


def open_text_tokenizer(
    directory: str | Path,
    max_seq_length: int | None = None,
    truncation: str = "head",
    longest: int | None = None,
    chinese: str | None = None,
    max_part_lengths: Sequence[int] | None = None,
) -> TextTokenizer:
    """The ``TextTokenizer`` of a model directory.

    Args:
        directory: holds configuration and vocabulary.
        max_seq_length: the most tokens of a sequence; None: ``longest`` or else 512, within the encoder's positions.
        truncation: the part that is kept of longer texts.
        longest: see ``max_seq_length``.
        chinese, max_part_lengths: as for ``TextTokenizer``.

    Raises:
        UserError: no positions for this length, or another model's vocabulary.
    """
    config = load_config(directory)
    length = max_seq_length or min(longest or 512, config.max_seq_length)
    config.check_length(length, directory)
    tokenizer = TextTokenizer(load_tokenizer(directory), length, truncation, chinese, max_part_lengths)
    config.check_vocabulary(tokenizer.highest_id, directory)
    return tokenizer


def _budgets(lengths: list[int], room: int) -> list[int]:
    """How many tokens each text keeps: the longer of two gives up its surplus first, then both equally."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    shorter = min(lengths)
    half = room // 2
    if shorter <= half:
        return [min(length, room - shorter) if length > shorter else length for length in lengths]
    # Both are cut; an odd token goes to the longer text, or to the second if equal, as in the tokenizers library.
    return [room - half, half] if lengths[0] > lengths[1] else [half, room - half]


def _cut(ids: list[int], budget: int, truncation: str) -> list[int]:
    if len(ids) <= budget:
        return ids
    if truncation == "head":
        return ids[:budget]
    head = budget // 4 if truncation == "head_tail" else 0
    return ids[:head] + ids[len(ids) - (budget - head) :]


@dataclass(kw_only=True)
class Samples:
    """Tokenized rows, as arrays that may lie in a memory-mapped file.

    A row has one sequence (a text, or two as a pair), or several that are encoded separately.

    Attributes:
        input_ids: all ids, sequence after sequence, int32 ``[total_tokens]``.
        offsets: where each sequence starts in ``input_ids``, int64 ``[sequences + 1]``.
        second: where the second segment of each sequence starts within it, int32 ``[sequences]``.
        text_hashes: one per sequence, uint64 ``[sequences]``, to find equal texts.
        row_starts: the first sequence of each row, then the number of sequences, int64 ``[rows + 1]``.
        labels: label ids, int64 ``[rows]``, -1 if a row has none; or scores, float64 ``[rows]``, nan if it has none; or 0
            or 1 for every label, int8 ``[rows, labels]``, -1 if the file has no labels.
        lines: the row's line in its file, int64 ``[rows]``.
        uncut_lengths: tokens of each sequence before truncation, special tokens included, int32 ``[sequences]``; if texts
            are read in windows, of each whole text.
        unknown: the number of tokens that the vocabulary lacks.
        copies: how often each row's sequences go into a batch; SimCSE sees every sentence twice.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    second: np.ndarray
    text_hashes: np.ndarray
    row_starts: np.ndarray
    labels: np.ndarray
    lines: np.ndarray
    uncut_lengths: np.ndarray
    unknown: int
    copies: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_label(self) -> np.ndarray:
        """Whether the file gives each row's label, labels or score, bool ``[rows]``."""
        if self.labels.dtype.kind == "f":
            return ~np.isnan(self.labels)
        known = self.labels >= 0
        return known.all(axis=1) if known.ndim == 2 else known

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, ``[sequences]``."""
        return np.diff(self.offsets)

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each row, summed over its sequences, ``[rows]``."""
        return np.diff(self.offsets[self.row_starts])

    def take(self, rows: np.ndarray) -> "Samples":
        """Some of the rows, which have one sequence each; ``truncated`` and ``unknown`` still count all."""
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return replace(
            self,
            input_ids=self.input_ids[np.arange(starts[-1]) + np.repeat(self.offsets[:-1][rows] - starts[:-1], lengths)],
            offsets=starts,
            second=self.second[rows],
            text_hashes=self.text_hashes[rows],
            row_starts=np.arange(len(rows) + 1),
            labels=self.labels[rows],
            lines=self.lines[rows],
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what determines a training run: the rows, their order and their labels."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and name not in ("lines", "text_hashes", "uncut_lengths"):
                digest.update(np.ascontiguousarray(value))
        return digest.hexdigest()


def tokenize(
    rows: Iterable[tuple[int, Sequence[str | tuple[str, ...]], float | np.ndarray]],
    encoder: TextTokenizer,
    unknown_id: int | None = None,
    separate: bool = False,
) -> Samples:
    """Tokenize ``(line, texts, label)`` rows; the tokenizer uses all cores.

    Args:
        rows: the label is an id (a whole number), a score (a float), or an array for several labels.
        encoder: gives the ids.
        unknown_id: the id of the unknown token, to count it.
        separate: each text of a row, or each tuple of texts, becomes its own sequence; otherwise one text, or a pair of
            texts, becomes one.
    """
    ids, second, hashes, labels, lines = [], [], [], [], []
    lengths: list[int] = []
    uncut_lengths: list[int] = []
    counts: list[int] = []
    unknown = 0
    rows = iter(rows)
    while chunk := list(islice(rows, _CHUNK)):
        sequences = []
        for line, texts, label in chunk:
            own = [(text,) if isinstance(text, str) else text for text in texts] if separate else [texts]
            sequences += own
            counts.append(len(own))
            labels.append(label)
            lines.append(line)
        for texts, (sequence_ids, start, uncut_length) in zip(sequences, encoder.encode(sequences), strict=True):
            ids.append(np.asarray(sequence_ids, dtype=np.int32))
            lengths.append(len(sequence_ids))
            second.append(start)
            hashes.append(text_hash("\t".join(texts)))
            uncut_lengths.append(uncut_length)
            unknown += sequence_ids.count(unknown_id) if unknown_id is not None else 0
    return Samples(
        input_ids=np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        second=np.asarray(second, dtype=np.int32),
        text_hashes=np.asarray(hashes, dtype=np.uint64),
        row_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=_label_array(labels),
        lines=np.asarray(lines, dtype=np.int64),
        uncut_lengths=np.asarray(uncut_lengths, dtype=np.int32),
        unknown=unknown,
    )


def _label_array(labels: list[float | np.ndarray]) -> np.ndarray:
    if labels and isinstance(labels[0], np.ndarray):
        return np.stack(labels)
    return np.asarray(labels, dtype=np.float64 if any(isinstance(label, float) for label in labels) else np.int64)


def text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def tokenize_cached(
    path: str | Path | Sequence[str | Path],
    rows: Callable[[], Iterable[tuple[int, Sequence[str | tuple[str, ...]], float | np.ndarray]]],
    encoder: TextTokenizer,
    read_as: tuple,
    cache_dir: str | Path | None = None,
    separate: bool = False,
) -> Samples:
    """``tokenize``, once per content of ``path``: the result is kept in ``cache_dir`` and mapped into memory.

    Args:
        path: the file that ``rows`` reads, or several; content, tokenizer and ``read_as`` determine the cache entry.
        rows: called if there is no entry yet.
        encoder: tokenizer, length and truncation.
        read_as: whatever else determines how the file is read (labels, columns).
        cache_dir: None takes ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.
        separate: as in ``tokenize``.
    """
    return from_cache(
        path,
        (encoder.fingerprint, read_as, separate),
        lambda: tokenize(rows(), encoder, encoder.pretrained.unk_token_id, separate),
        Samples,
        cache_dir,
    )


def from_cache(
    paths: str | Path | Sequence[str | Path],
    key: tuple,
    build: Callable[[], AnySamples],
    kind: type[AnySamples],
    cache_dir: str | Path | None = None,
) -> AnySamples:
    """What ``build`` makes of one or more files, built once per content and mapped into memory.

    Args:
        paths: the files that are read.
        key: whatever else determines the result; its ``repr`` must contain all of it.
        build: called if there is no entry yet; its warnings are kept and repeated whenever the entry is used.
        kind: the dataclass that it returns: arrays, which are stored as files, numbers and strings. Arrays that ``build``
            has already written to ``.npy`` files in ``cache_dir`` are moved, not copied.
        cache_dir: None takes ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    names = [field.name for field in fields(kind)]  # so an older version's entry with other fields is not found
    digest = hashlib.blake2b(f"{kind.__name__}|{names}|{key!r}".encode(), digest_size=16)
    for path in chain.from_iterable(map(files_of, paths)):
        digest.update(b"|file|")
        with open_binary(path, unpack=False) as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    entry = cache_root(cache_dir) / digest.hexdigest()
    found = _read_cache(entry, kind)
    if found is not None:
        samples, warnings = found
        for warning in warnings:
            logger.warning(warning)
        logger.info(f"{', '.join(map(str, paths))}: {len(samples)} tokenized rows from the cache {entry}")
        return samples
    warnings: list[str] = []
    noting = logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
    try:
        samples = build()
    finally:
        logger.remove(noting)
    try:
        _write_cache(entry, samples, warnings)
    except OSError as error:
        logger.warning(f"{entry}: the token cache cannot be written ({error.strerror or error}); continuing without it")
        return samples
    found = _read_cache(entry, kind)
    return found[0] if found else samples


def _read_cache(entry: Path, kind: type[AnySamples]) -> tuple[AnySamples, list[str]] | None:
    try:
        compare_checksums(entry)
        rest = json.loads((entry / "rest.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in rest["arrays"]}
        if {name: list(array.shape) for name, array in arrays.items()} != rest["arrays"]:
            raise ValueError("sizes do not agree")
        return kind(**arrays, **rest["others"]), rest["warnings"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever the damage, it can be built again
        logger.warning(f"{entry}: damaged token cache ({error}); it is built again")
        return None


def _write_cache(entry: Path, samples: Samples, warnings: list[str]) -> None:
    with whole_folder(entry, flush=False) as unfinished:
        values = {field.name: getattr(samples, field.name) for field in fields(samples)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        for name, array in arrays.items():
            if isinstance(array, np.memmap):
                os.replace(array.filename, unfinished / f"{name}.npy")
            else:
                np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
        rest = {
            "arrays": {name: array.shape for name, array in arrays.items()},
            "others": {name: value for name, value in values.items() if name not in arrays},
            "warnings": warnings,
        }
        (unfinished / "rest.json").write_text(json.dumps(rest), encoding="utf-8")
        write_checksums(unfinished)
        if entry.exists():  # damaged, or finished by another run meanwhile
            shutil.rmtree(entry)
