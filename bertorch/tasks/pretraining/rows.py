"""Plain text for pretraining: tokenize documents to disk, and cut them into texts."""

import functools
import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Encoding

from bertorch.cache import cache_root
from bertorch.data.files import read_lines
from bertorch.data.tokenizing import TextTokenizer, from_cache
from bertorch.errors import UserError

_CHUNK = 10_000  # sentences tokenized at a time
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(kw_only=True)
class Documents:
    """Tokenized documents, cut into texts of consecutive sentences; the arrays are memory-mapped files.

    A text holds as many sentences of one document as fit. Short texts stay short, as batches are not padded.

    Attributes:
        input_ids: tokens of all sentences, without special tokens, int32 ``[tokens]``.
        continues: which tokens continue the word of the previous token, bool ``[tokens]``; empty if words do not matter.
        sentence_starts: where each sentence starts in ``input_ids``, then the end, int64 ``[sentences + 1]``.
        text_starts: the first sentence of each text, then the number of sentences, int64 ``[texts + 1]``.
        text_documents: the document of each text, int32 ``[texts]``.
        fingerprint: hash of the texts and of the settings that tokenize and cut them; it decides the course of training.
        unknown: number of tokens that the vocabulary lacks.
        divided: number of sentences too long for a text, which were cut.
    """

    input_ids: np.ndarray
    continues: np.ndarray
    sentence_starts: np.ndarray
    text_starts: np.ndarray
    text_documents: np.ndarray
    fingerprint: str
    unknown: int
    divided: int

    def __len__(self) -> int:
        return len(self.text_documents)

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each text, int64 ``[texts]``."""
        return np.diff(self.sentence_starts[self.text_starts])


def tokenize_documents(
    paths: Sequence[str | Path],
    encoder: TextTokenizer,
    room: int,
    words: bool,
    cache_dir: str | Path | None = None,
    encoding: str | None = None,
) -> Documents:
    """Read files of documents: one sentence per line, a blank line between documents, plain or ``.gz``.

    Sentences are read, tokenized and written a few thousand at a time, so that memory does not grow with the files. The
    result is kept in the token cache, like the rows of other tasks.

    Args:
        paths: the files; the end of a file ends a document.
        encoder: provides the tokenizer.
        room: longest text in tokens, without special tokens; a longer sentence is cut.
        words: whether to find which tokens form a word; jieba finds Chinese words.
        cache_dir: None uses ``BERTORCH_CACHE`` or ``~/.cache/bertorch``.
        encoding: the files' encoding; None detects it for each.

    Raises:
        UserError: a file cannot be read, no file has text, jieba is needed but missing, or the cache cannot be written.
    """
    root = cache_root(cache_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="documents.", dir=root) as unfinished:
            return from_cache(
                paths,
                (encoder.fingerprint, room, words, encoding),
                lambda: _write_documents(paths, encoder, room, words, Path(unfinished), encoding),
                Documents,
                cache_dir,
            )
    except OSError as error:
        raise UserError(
            f"{root}: tokenized documents cannot be written here ({error.strerror or error}); give another --cache_dir"
        ) from None


class _GrowingArray:
    """A ``.npy`` file that is written piece by piece; numpy's header leaves room for its length to grow."""

    def __init__(self, path: Path, kind: type):
        self.path, self.kind, self.rows = path, np.dtype(kind), 0
        self.file = open(path, "wb")
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def extend(self, values: list) -> None:
        self.file.write(np.asarray(values, dtype=self.kind).tobytes())
        self.rows += len(values)

    def finish(self) -> np.ndarray:
        """The array, mapped into memory."""
        self.file.seek(0)
        self._write_header()
        self.file.close()
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def _write_documents(
    paths: Sequence[str | Path], encoder: TextTokenizer, room: int, words: bool, folder: Path, encoding: str | None
) -> Documents:
    kinds = {
        "input_ids": np.int32, "continues": np.bool_, "sentence_starts": np.int64, "text_starts": np.int64,
        "text_documents": np.int32,
    }  # fmt: skip
    arrays = {name: _GrowingArray(folder / f"{name}.npy", kind) for name, kind in kinds.items()}
    digest = hashlib.blake2b(f"{encoder.fingerprint}|{room}|{words}".encode(), digest_size=16)
    unknown_id = encoder.pretrained.unk_token_id
    unknown = divided = tokens = sentences = 0
    document, ended = -1, True
    space = 0  # tokens left in the current text
    encode = encoder.backend.encode_batch if words else encoder.backend.encode_batch_fast  # the fast one has no offsets
    chinese_words = functools.cache(_chinese_words)  # called only for Chinese text
    lines = map(encoder.convert, _sentences(paths, encoding))
    while chunk := list(islice(lines, _CHUNK)):
        new = {name: [] for name in kinds}
        texts = [text for text in chunk if text]
        encodings = iter(encode(texts, add_special_tokens=False))
        for text in chunk:
            digest.update(text.encode() + b"\n")
            if not text:
                ended = True
                continue
            encoding = next(encodings)
            ids = encoding.ids
            unknown += ids.count(unknown_id)
            divided += len(ids) > room
            new["input_ids"] += ids
            if words:
                new["continues"] += _continues(text, encoding, chinese_words)
            for start in range(0, len(ids), room):
                length = min(room, len(ids) - start)
                if ended:
                    document, ended, space = document + 1, False, 0
                if length > space:
                    new["text_starts"].append(sentences)
                    new["text_documents"].append(document)
                    space = room
                new["sentence_starts"].append(tokens)
                space, tokens, sentences = space - length, tokens + length, sentences + 1
        for name, values in new.items():
            arrays[name].extend(values)
    if not tokens:
        raise UserError(
            f"{', '.join(map(str, paths))}: no text; write one sentence per line and a blank line between documents"
        )
    arrays["sentence_starts"].extend([tokens])
    arrays["text_starts"].extend([sentences])
    finished = {name: array.finish() for name, array in arrays.items()}
    return Documents(**finished, fingerprint=digest.hexdigest(), unknown=unknown, divided=divided)


def _sentences(paths: Sequence[str | Path], encoding: str | None) -> Iterator[str]:
    """The sentences of all files, with an empty one after each document."""
    for path in paths:
        for _, line in read_lines(path, encoding=encoding):
            yield line.strip()
        yield ""


def _continues(text: str, encoding: Encoding, chinese_words: Callable[[], Callable[[str], list[str]]]) -> list[bool]:
    """Which tokens of a text continue the word of the previous token: pieces, and characters of a Chinese word."""
    words = encoding.word_ids
    inside = [before is not None and before == word for before, word in zip([None, *words], words, strict=False)]
    if _CHINESE.search(text):
        starts, place = set(), 0
        for word in chinese_words()(text):
            starts.add(place)
            place += len(word)
        inside = [same or start not in starts for same, (start, _) in zip(inside, encoding.offsets, strict=True)]
    return inside


def _chinese_words() -> Callable[[str], list[str]]:
    """The function that splits a text into words. Raises UserError if jieba is not installed."""
    try:
        import jieba
    except ImportError:
        raise UserError("--whole_words needs jieba to find the words of Chinese; install it: pip install jieba") from None
    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut
