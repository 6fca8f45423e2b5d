"""Train a WordPiece vocabulary on plain text, for an encoder from scratch.

    python scripts/train_vocabulary.py --train_data_file corpus/*.txt.gz --vocab_size 21128 --output_dir my-encoder \
        --config_file models/bertorch-tiny-zh/config.json
    python run_pretraining.py --pretrained_model_name_or_path my-encoder ...

Text is read as BERT reads it: every Chinese character is a word of its own, so that pieces of several characters are those
of Latin words and numbers.
"""

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tokenizers import BertWordPieceTokenizer

from bertorch.data.files import read_lines
from bertorch.encoder.config import EncoderConfig
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
    """The tokens in their order, special ones where Google's vocabularies have them."""
    tokenizer = BertWordPieceTokenizer(lowercase=not args.cased)
    characters = Counter()
    for path in args.train_data_file:
        for _, line in read_lines(path):
            characters.update(character for character in tokenizer.normalize(line) if not character.isspace())
    if not characters:
        raise UserError(f"{', '.join(args.train_data_file)}: no text in it")
    sums = itertools.accumulate(number for _, number in characters.most_common())
    needed = next(rank for rank, known in enumerate(sums, 1) if known >= args.character_coverage * characters.total())
    special = ["[PAD]", *(f"[unused{number}]" for number in range(1, args.unused + 1)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    left = args.vocab_size - len(special)
    if needed > left:
        raise UserError(
            f"--vocab_size {args.vocab_size}: {needed} characters are needed for --character_coverage "
            f"{args.character_coverage} and {left} places are left; raise the one or lower the other"
        )
    tokenizer.train_from_iterator(
        (line for path in args.train_data_file for _, line in read_lines(path)),
        vocab_size=left,
        min_frequency=args.min_frequency,
        limit_alphabet=needed,
        special_tokens=[],
        show_progress=False,
    )
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return special + [piece for piece, _ in pieces]


def main(args):
    output = Path(args.output_dir)
    if (output / "vocab.txt").exists():
        raise UserError(f"{output} already holds a vocabulary; give another --output_dir")
    config = None
    if args.config_file:
        config = json.loads("".join(line for _, line in read_lines(args.config_file)))
        EncoderConfig.from_dict(config, args.config_file)
    tokens = train_vocabulary(args)
    output.mkdir(parents=True, exist_ok=True)
    (output / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    settings = {
        "tokenizer_class": "BertTokenizer", "do_lower_case": not args.cased, "tokenize_chinese_chars": True,
        "model_max_length": 512 if config is None else config["max_position_embeddings"],
    }  # fmt: skip
    (output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if config is not None:
        config |= {"vocab_size": len(tokens), "pad_token_id": 0}
        (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{output}: {len(tokens)} tokens, of them {sum(len(token) == 1 for token in tokens)} single characters")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
