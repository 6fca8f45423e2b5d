"""Train a vocabulary on plain text, for an encoder from scratch: WordPiece, or SentencePiece like English ALBERT's.

    python scripts/train_vocabulary.py --train_data_file corpus/*.txt.gz --vocab_size 21128 --output_dir my-encoder \
        --config_file models/bertorch-tiny-zh/config.json
    python run_pretraining.py --pretrained_model_name_or_path my-encoder ...

WordPiece reads text as BERT does: every Chinese character is a word, so only Latin words and numbers give pieces of
several characters. ``--kind sentencepiece`` uses the settings of Google's ``30k-clean.model``
(``spm_train`` in the README of github.com/google-research/albert), and reads text as ALBERT does.
"""

import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import sentencepiece
from tokenizers import BertWordPieceTokenizer

from bertorch.data.files import read_lines
from bertorch.encoder.albert_tokenizer import FILE_NAMES, make_albert_tokenizer, preprocess
from bertorch.encoder.config import read_config
from bertorch.errors import UserError
from bertorch.training.arguments import ArgumentParser, count, proportion, whole_number
from bertorch.training.process_group import run_script

DEFAULTS = {  # of the flags that only one kind has, or whose defaults differ
    "wordpiece": {"vocab_size": 21128, "character_coverage": 0.9995, "unused": 99, "min_frequency": 2},
    "sentencepiece": {"vocab_size": 30000, "character_coverage": 0.99995, "unused": None, "min_frequency": None},
}
ALBERT = {
    "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    "user_defined_symbols": ["(", ")", '"', "-", ".", "–", "£", "€"], "shuffle_input_sentence": True,
    "input_sentence_size": 10_000_000, "model_type": "unigram",
}  # fmt: skip
LONGEST_LINE = 4192  # bytes; sentencepiece silently drops longer lines


def parse_args():
    parser = ArgumentParser("Train a vocabulary on plain text.")
    parser.add_argument("--kind", choices=list(DEFAULTS), default="wordpiece", help="sentencepiece: for English ALBERT")
    parser.add_argument("--train_data_file", required=True, nargs="+", help="plain text, also .gz")
    parser.add_argument(
        "--output_dir", required=True, help="where to write vocab.txt or spiece.model, and tokenizer_config.json"
    )
    parser.add_argument("--config_file", default=None, help="copied there as config.json, with the new vocabulary size")
    parser.add_argument(
        "--vocab_size", type=whole_number, default=None,
        help="number of tokens, special and unused ones included (default: 21128, sentencepiece: 30000)",
    )  # fmt: skip
    parser.add_argument(
        "--unused", type=count, default=None,
        help="number of slots [unused1], [unused2] and so on, for your own tokens (default: 99); WordPiece only",
    )  # fmt: skip
    parser.add_argument(
        "--character_coverage", type=proportion, default=None,
        help="share of the text's characters that the vocabulary covers; rarer ones become [UNK] (default: 0.9995, "
        "sentencepiece: 0.99995)",
    )  # fmt: skip
    parser.add_argument(
        "--min_frequency", type=whole_number, default=None,
        help="how often a piece of several characters must occur (default: 2); WordPiece only",
    )  # fmt: skip
    parser.add_argument("--cased", action="store_true", help="keep capitals and accents")
    args = parser.parse_args()
    for name, value in DEFAULTS[args.kind].items():
        if value is None and getattr(args, name) is not None:
            parser.error(f"--{name} is for WordPiece, not for --kind {args.kind}; leave it out")
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def train_vocabulary(args):
    """The tokens in order: special tokens as in Google's vocabularies, characters, pieces of words.

    Raises:
        UserError: there is no text, or more distinct characters than ``--vocab_size``.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=not args.cased)
    normalize = tokenizer._tokenizer.normalizer.normalize_str  # `tokenizer.normalize` needs tokenizers 0.23
    words = Counter()  # split at blanks; each Chinese character is a word
    for path in args.train_data_file:
        for _, line in read_lines(path):
            words.update(normalize(line).split())
    characters = Counter()
    for word, number in words.items():
        characters.update({character: times * number for character, times in Counter(word).items()})
    if not characters:
        raise UserError(f"{', '.join(args.train_data_file)}: no text in it")
    by_number = sorted(characters, key=lambda character: (-characters[character], character))
    sums = itertools.accumulate(characters[character] for character in by_number)
    needed = next(rank for rank, known in enumerate(sums, 1) if known >= args.character_coverage * characters.total())
    alphabet = set(by_number[:needed])
    split = tokenizer._tokenizer.pre_tokenizer.pre_tokenize_str
    inside = {character for word in words if len(word) > 1 for piece, _ in split(word) for character in piece[1:]}
    # Given in advance, so that their ids, and thus the order of equally frequent pieces, are always the same.
    singles = sorted(alphabet) + [f"##{character}" for character in sorted(inside & alphabet)]
    special = ["[PAD]", *(f"[unused{number}]" for number in range(1, args.unused + 1)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    left = args.vocab_size - len(special)
    if len(singles) > left:
        raise UserError(
            f"--vocab_size {args.vocab_size}: {len(singles)} tokens of one character are needed for --character_coverage "
            f"{args.character_coverage} and {left} places are left; raise the one or lower the other"
        )
    tokenizer.train_from_iterator(
        (line for path in args.train_data_file for _, line in read_lines(path)),
        vocab_size=left,
        min_frequency=args.min_frequency,
        limit_alphabet=needed,
        initial_alphabet=sorted(alphabet),
        special_tokens=singles,
        show_progress=False,
    )
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return special + [piece for piece, _ in pieces]


def train_sentencepiece(args):
    """The content of a ``.model`` file. The same text gives the same bytes.

    Raises:
        UserError: there is no text, or more distinct characters than ``--vocab_size``.
    """

    def sentences():
        lines = (
            preprocess(line, not args.cased, args.cased) for path in args.train_data_file for _, line in read_lines(path)
        )
        return (line for line in lines if line)

    too_long = Counter(len(line.encode()) > LONGEST_LINE for line in sentences())  # also finds bad files early
    if not too_long:
        raise UserError(f"{', '.join(args.train_data_file)}: no text in it")
    if too_long[True]:
        print(f"{too_long[True]} lines longer than {LONGEST_LINE} bytes are left out; write a sentence a line")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(), model_writer=model, vocab_size=args.vocab_size, hard_vocab_limit=False,
            character_coverage=args.character_coverage, max_sentence_length=LONGEST_LINE, minloglevel=2, **ALBERT,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--vocab_size {args.vocab_size}: sentencepiece makes no vocabulary ({reason}); with too few places for the "
            f"characters raise it, or lower --character_coverage {args.character_coverage}"
        ) from None
    return model.getvalue()


def write_sentencepiece(args, output, config):
    if config is not None and config.model_type != "albert":
        raise UserError(f"{args.config_file}: model_type is {config.model_type}, and --kind sentencepiece is for albert")
    model = train_sentencepiece(args)
    settings = {"do_lower_case": not args.cased, "keep_accents": args.cased}
    if config is not None:
        settings["model_max_length"] = config.max_seq_length
    tokenizer = make_albert_tokenizer(model, output / FILE_NAMES[0], **settings)
    output.mkdir(parents=True, exist_ok=True)
    if config is not None:
        written = replace(config, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).to_dict()
        written |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        (output / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(output)
    print(f"{output}: {len(tokenizer)} tokens")


def main(args):
    output = Path(args.output_dir)
    if any((output / name).exists() for name in ("vocab.txt", *FILE_NAMES)) or output.is_file():
        raise UserError(f"--output_dir {output} is a file or already holds a vocabulary; name another directory")
    config = read_config(args.config_file) if args.config_file else None
    if args.kind == "sentencepiece":
        write_sentencepiece(args, output, config)
        return
    tokens = train_vocabulary(args)
    output.mkdir(parents=True, exist_ok=True)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": not args.cased, "tokenize_chinese_chars": True}
    if config is not None:
        settings["model_max_length"] = config.max_seq_length
        written = replace(config, vocab_size=len(tokens), pad_token_id=0).to_dict()
        (output / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    (output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (output / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    print(f"{output}: {len(tokens)} tokens, of them {sum(len(token) == 1 for token in tokens)} single characters")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
