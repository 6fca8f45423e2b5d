"""The tokenizer of English ALBERT: SentencePiece as Google's ALBERT uses it.

Ids are those of ``tokenization.py`` in github.com/google-research/albert: ``preprocess_text``, the pieces of the
``sentencepiece`` library, and its own rule for a comma after a digit. No tokenizer of transformers gives these ids: its
ALBERT tokenizer makes separate tokens of the symbols that the model defines (``( ) " - . – £ €``), which splits the text
around them, and lacks the comma rule.
"""

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bertorch.encoder.config import read_json_object
from bertorch.errors import UserError

FILE_NAMES = ("spiece.model", "30k-clean.model")  # in Hugging Face's directories, in Google's releases
SPECIAL_TOKENS = {
    "pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "[CLS]", "eos_token": "[SEP]", "cls_token": "[CLS]",
    "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
_BLANK = "▁"
_CLASSES = ("AlbertTokenizer", "AlbertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", None)
_UNIGRAM, _USER_DEFINED = 1, 4  # from sentencepiece_model.proto: model_type, type of a piece


def find_albert_model(directory: Path) -> Path | None:
    """The SentencePiece model of a directory whose tokenizer is ALBERT's; None for any other directory."""
    path = next((directory / name for name in FILE_NAMES if (directory / name).is_file()), None)
    if path is None:
        return None
    config, settings = directory / "config.json", directory / "tokenizer_config.json"
    name = read_json_object(settings).get("tokenizer_class") if settings.is_file() else None
    family = read_json_object(config).get("model_type") if config.is_file() else None
    return path if family in ("albert", None) and name in _CLASSES else None


def load_albert_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a SentencePiece model, with the settings and the added tokens found beside it.

    Only these keys of ``tokenizer_config.json`` are used: ``do_lower_case`` (default: true), ``keep_accents`` (default:
    false), ``model_max_length`` and names of special tokens.

    Raises:
        UserError: as ``make_albert_tokenizer``.
    """
    settings, saved = (path.with_name(name) for name in ("tokenizer_config.json", "tokenizer.json"))
    given = read_json_object(settings) if settings.is_file() else {}
    added = read_json_object(saved).get("added_tokens", []) if saved.is_file() else []
    kept = ("do_lower_case", "keep_accents", "model_max_length", *SPECIAL_TOKENS)
    return make_albert_tokenizer(
        path.read_bytes(),
        path,
        added,
        name_or_path=str(path.parent),
        **{name: given[name] for name in kept if name in given},
    )


def make_albert_tokenizer(
    model: bytes,
    source: str | Path,
    added_tokens: Sequence[dict[str, Any]] = (),
    do_lower_case: bool = True,
    keep_accents: bool = False,
    **settings: Any,
) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers whose ids are those of Google's ALBERT.

    ``save_pretrained`` writes the SentencePiece model, which this module opens, and a ``tokenizer.json``, which
    transformers opens. The latter comes as close as the ``tokenizers`` library can: where a piece such as ``▁1,`` would
    be best, it may choose other pieces than the comma rule gives.

    Args:
        model: the content of a ``.model`` file.
        source: where the model comes from, for messages.
        added_tokens: as ``tokenizer.json`` lists them; those that the model lacks get the ids after its last one.
        do_lower_case: convert the text to lower case.
        keep_accents: Google's tokenizer drops them, cased or not.
        settings: names of special tokens and others, for transformers.

    Raises:
        UserError: the model is damaged, is not a unigram model, or lacks one of the special tokens.
    """
    proto, processor = read_sentencepiece(model, source)
    special = {role: _content(settings.get(role)) or token for role, token in SPECIAL_TOKENS.items()}
    ids = {token: processor.piece_to_id(token) for token in special.values()}
    lacking = [token for token, number in ids.items() if processor.id_to_piece(number) != token]
    if lacking:
        raise UserError(f"{source}: the vocabulary has no {', '.join(lacking)}; is it an ALBERT model?")
    rust = _tokenizer_json(proto, do_lower_case, keep_accents)
    cls, sep = special["cls_token"], special["sep_token"]
    rust.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    rust.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ids])
    for token in sorted(added_tokens, key=lambda token: token["id"]):
        if token["id"] >= processor.get_piece_size():
            rust.add_tokens([AddedToken(**{name: value for name, value in token.items() if name != "id"})])
    values = {"do_lower_case": do_lower_case, "keep_accents": keep_accents, **settings, **special}
    values["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]  # the first one identifies a pair
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, **values)
    tokenizer._tokenizer = AlbertBackend(tokenizer._tokenizer, model, do_lower_case, keep_accents)
    # [CLS] in a text is text, as for Google. This setting is not saved: in transformers the user decides.
    tokenizer.split_special_tokens = tokenizer._tokenizer.encode_special_tokens = True
    return tokenizer


def saved_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """The files that ``save_pretrained`` writes: names and contents."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def read_sentencepiece(model: bytes, source: str | Path) -> tuple[Any, sentencepiece.SentencePieceProcessor]:
    """The message that a SentencePiece file of the unigram kind holds, and the model.

    Raises:
        UserError: the file is damaged, or of another kind.
    """
    from sentencepiece import sentencepiece_model_pb2  # loads all of protobuf, and is needed only here

    proto, processor = sentencepiece_model_pb2.ModelProto(), sentencepiece.SentencePieceProcessor()
    try:
        proto.ParseFromString(model)
        processor.LoadFromSerializedProto(model)
    except Exception as error:  # its class has different names in different versions of protobuf
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{source}: damaged, or not a SentencePiece model ({reason})") from None
    if not proto.pieces or proto.trainer_spec.model_type != _UNIGRAM:
        raise UserError(f"{source}: not a SentencePiece model of the unigram kind")
    return proto, processor


def _content(token: Any) -> str | None:
    """The text of a special token in ``tokenizer_config.json``: a string, or an object with its ``content``."""
    return token.get("content") if isinstance(token, dict) else token


def _tokenizer_json(proto: Any, do_lower_case: bool, keep_accents: bool) -> Tokenizer:
    """The model as the ``tokenizers`` library can hold it, without special tokens."""
    best = max((piece.score for piece in proto.pieces if piece.type == 1), default=0.0)
    scores = []
    for piece in proto.pieces:
        score = piece.score
        if piece.type == _USER_DEFINED:  # as in sentencepiece's unigram_model.cc, so that no other path is better
            score = len(piece.piece.encode()) * best - 0.1
        elif _ends_in_number_comma(piece.piece):  # so that it is not chosen; transformers' ALBERT subtracts 100 too
            score -= 100
        scores.append((piece.piece, score))
    rust = Tokenizer(models.Unigram(scores, unk_id=proto.trainer_spec.unk_id))
    steps = [normalizers.Replace(Regex(r"[\s\x1c-\x1f\x85]+"), " "), normalizers.Strip()]
    steps += [] if keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if do_lower_case else []
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    rust.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" +"), " "), normalizers.Strip()])
    rust.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="always")
    rust.decoder = decoders.Metaspace(replacement=_BLANK, prepend_scheme="always")
    return rust


def preprocess(text: str, do_lower_case: bool, keep_accents: bool) -> str:
    """The result of Google's ``preprocess_text``: one blank between words, no accents, compatible forms, lower case."""
    text = " ".join(text.split())
    if not keep_accents and not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower() if do_lower_case else text


def _ends_in_number_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


class _Ids(NamedTuple):
    ids: list[int]


class AlbertBackend:
    """Replaces a ``tokenizers.Tokenizer``: takes pieces from the ``sentencepiece`` library, all else from that tokenizer.

    Offsets are in characters of the text, without the blanks around a token; a piece that is only a blank gets the offsets
    of the character after it, as in the ``tokenizers`` library.

    Args:
        rust: does special and added tokens, layout, truncation, padding and decoding; saved as ``tokenizer.json``.
        model: the content of the ``.model`` file.
        do_lower_case, keep_accents: as ``make_albert_tokenizer``.
    """

    def __init__(self, rust: Tokenizer, model: bytes, do_lower_case: bool, keep_accents: bool):
        self.rust, self.model = rust, model
        self.do_lower_case, self.keep_accents = do_lower_case, keep_accents
        self.processor = sentencepiece.SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(model)
        self.tokens_of = lru_cache(maxsize=1 << 17)(self._tokens_of)
        self.width = lru_cache(maxsize=1 << 16)(lambda character: len(self._clean(character)))

    def __reduce__(self):
        return AlbertBackend, (self.rust, self.model, self.do_lower_case, self.keep_accents)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["rust"], name)

    @property
    def encode_special_tokens(self) -> bool:
        """Whether special tokens in a text count as text, as in ``tokenizers.Tokenizer``."""
        return self.rust.encode_special_tokens

    @encode_special_tokens.setter
    def encode_special_tokens(self, value: bool) -> None:
        self.rust.encode_special_tokens = value

    def to_str(self, pretty: bool = False) -> str:
        """Changes whenever the same text would give other ids."""
        return json.dumps(
            {**json.loads(self.rust.to_str()), "sentencepiece": self.model.hex()}, indent=2 if pretty else None
        )

    def save(self, path: str, pretty: bool = True) -> None:
        """Write ``tokenizer.json``, and the SentencePiece model beside it."""
        self.rust.save(path, pretty)
        Path(path).with_name(FILE_NAMES[0]).write_bytes(self.model)

    def encode(self, sequence: str, pair: str | None = None, add_special_tokens: bool = True) -> Encoding:
        return self.encode_batch([sequence if pair is None else (sequence, pair)], add_special_tokens=add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str | tuple[str, str]], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """Encode texts or pairs of texts; ALBERT takes no texts already split into words."""
        if is_pretokenized:
            raise ValueError("give whole texts: ALBERT's pieces depend on what stands around a word")
        added, encodings = self._added_tokens(), []
        for row in texts:
            parts = [self._encoding(text, added) for text in ((row,) if isinstance(row, str) else row)]
            encodings.append(self.rust.post_process(*parts, add_special_tokens=add_special_tokens))
        return encodings

    def encode_batch_fast(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[Encoding] | list[_Ids]:
        """Encode on all cores, ids only, if no token is added."""
        if add_special_tokens or self._added_tokens():
            return self.encode_batch(texts, add_special_tokens=add_special_tokens)
        found = self.processor.encode([self._clean(text) for text in texts], out_type=str)
        return [_Ids([number for piece in pieces for _, number in self.tokens_of(piece)]) for pieces in found]

    def _clean(self, text: str) -> str:
        return preprocess(text, self.do_lower_case, self.keep_accents)

    def _places(self, text: str) -> list[int]:
        """Where each character of ``_clean(text)`` stands in ``text``; as a last entry, where the last word ends."""
        places, end = [], 0
        for word in re.finditer(r"\S+", text):
            places += [end] if end else []  # the blank before it
            end = word.end()
            if word.group().isascii():
                places += range(word.start(), end)
            else:
                for place, character in enumerate(word.group(), word.start()):
                    places += [place] * self.width(character)
        return [*places, end]

    def _tokens_of(self, piece: str) -> tuple[tuple[str, int], ...]:
        """A piece as Google's tokenizer keeps it, with its id: a number and its comma are split, and the number re-encoded.

        The number gets the blank that begins every text, even within a word. Google's code means to remove it there, but
        compares a character with bytes, and its models were trained on the result.
        """
        pieces = [piece]
        if _ends_in_number_comma(piece):
            pieces = [*self.processor.encode(piece[:-1].replace(_BLANK, ""), out_type=str), ","]
        return tuple((one, self.processor.piece_to_id(one)) for one in pieces)

    def _added_tokens(self) -> dict[str, int]:
        """The tokens that a text is searched for before it is split into pieces."""
        known = self.rust.get_added_tokens_decoder()
        is_text = self.encode_special_tokens
        return {token.content: number for number, token in known.items() if not (is_text and token.special)}

    def _encoding(self, text: str, added: dict[str, int]) -> Encoding:
        tokens, ids, offsets, words = [], [], [], []
        for begin, part, number in _parts(text, added):
            found = self._pieces(part) if number is None else [(part, number, 0, len(part))]
            for token, number_of_token, start, end in found:
                starts_word = number is not None or token[0] == _BLANK
                tokens.append(token)
                ids.append(number_of_token)
                offsets.append((begin + start, begin + end))
                words.append(words[-1] + starts_word if words else 0)
        none = [0] * len(ids)
        content = {
            "ids": ids, "type_ids": none, "tokens": tokens, "words": words, "offsets": offsets, "special_tokens_mask": none,
            "attention_mask": [1] * len(ids), "overflowing": [], "sequence_ranges": {},
        }  # fmt: skip
        encoding = Encoding()
        encoding.__setstate__(json.dumps(content).encode())  # as pickle does; there is no other way to make an Encoding
        return encoding

    def _pieces(self, text: str) -> Iterator[tuple[str, int, int, int]]:
        """Each token, its id, and its start and end in ``text``."""
        clean, places = self._clean(text), self._places(text)
        normalized, origins = self.processor.normalize(clean, with_offsets=True)  # of each character: its place in ``clean``
        place = 0
        for piece in self.processor.encode(clean, out_type=str):
            for token, number in self.tokens_of(piece):
                blank = token.startswith(_BLANK)
                given = blank and normalized.startswith(_BLANK, place)  # otherwise the comma rule added it
                first, last = place + given, min(place + given + len(token) - blank, len(normalized))
                place = last
                last = max(last, min(first + 1, len(normalized)))  # only a blank
                start = end = places[origins[first]]
                if first < last:  # if one character gives several tokens, each covers all of it
                    final = max(origins[last], origins[last - 1] + 1)
                    end = max(places[final], places[final - 1] + 1)
                    end = start + len(text[start:end].rstrip())
                yield token, number, start, end


def _parts(text: str, added: dict[str, int]) -> Iterator[tuple[int, str, int | None]]:
    """Start and text of the parts between added tokens, and of the added tokens, with their ids."""
    place = 0
    if added:
        pattern = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
        for match in re.finditer(pattern, text):
            yield place, text[place : match.start()], None
            yield match.start(), match.group(), added[match.group()]
            place = match.end()
    yield place, text[place:], None
