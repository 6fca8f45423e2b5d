"""Train a WordPiece vocabulary on plain text, for an encoder from scratch.

    python scripts/train_vocabulary.py --train_data_file corpus/*.txt.gz --vocab_size 21128 --output_dir my-encoder \
        --config_file models/bertorch-tiny-zh/config.json
    python run_pretraining.py --pretrained_model_name_or_path my-encoder ...

Text is read as BERT reads it: every Chinese character is a word of its own, so that pieces of several characters are those
of Latin words and numbers.
"""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from bertorch.data.files import read_lines
from bertorch.encoder.config import read_config
from bertorch.errors import UserError
from bertorch.training.arguments import ArgumentParser, count, proportion, whole_number
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Train a WordPiece vocabulary on plain text.")
    parser.add_argument("--train_data_file", required=True, nargs="+", help="plain text, also .gz")
    parser.add_argument("--output_dir", required=True, help="gets vocab.txt and tokenizer_config.json")
    parser.add_argument("--config_file", default=None, help="copied to config.json there, with the size of the vocabulary")
    parser.add_argument("--vocab_size", type=whole_number, default=21128, help="tokens, special and unused ones included")
    parser.add_argument("--unused", type=count, default=99, help="slots [unused1], [unused2] and so on, for tokens of yours")
    parser.add_argument(
        "--character_coverage", type=proportion, default=0.9995,
        help="share of the text's characters that the vocabulary knows; what is rarer becomes [UNK]",
    )  # fmt: skip
    parser.add_argument("--min_frequency", type=whole_number, default=2, help="occurrences of a piece of several characters")
    parser.add_argument("--cased", action="store_true", help="keep capitals and accents")
    return parser.parse_args()


def train_vocabulary(args):
    """The tokens in their order: special ones as in Google's vocabularies, characters, pieces of words.

    Raises:
        UserError: there is no text, or its characters alone are more than ``--vocab_size``.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=not args.cased)
    words = Counter()  # between blanks; Chinese characters stand alone
    for path in args.train_data_file:
        for _, line in read_lines(path):
            words.update(tokenizer.normalize(line).split())
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
    # Given beforehand, so that their numbers, and with them the order of equally frequent pieces, do not depend on luck.
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


def main(args):
    output = Path(args.output_dir)
    if (output / "vocab.txt").exists() or output.is_file():
        raise UserError(f"--output_dir {output} is a file or already holds a vocabulary; name another directory")
    config = read_config(args.config_file) if args.config_file else None
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
