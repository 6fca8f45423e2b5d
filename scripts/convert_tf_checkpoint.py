"""Make a Hugging Face directory of a TensorFlow checkpoint: Google's BERT and ALBERT, SimBERT, albert_zh.

    pip install tensorflow-cpu
    python scripts/convert_tf_checkpoint.py chinese_L-12_H-768_A-12 bert-base-chinese

The directory is what every script takes as --pretrained_model_name_or_path, and transformers opens it, heads included.
"""

import argparse

from bertorch.encoder.tensorflow import convert_checkpoint
from bertorch.training.arguments import ArgumentParser
from bertorch.training.logging import set_up_logging
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Make a Hugging Face directory of a TensorFlow checkpoint.")
    parser.add_argument(
        "checkpoint", help="its prefix (.../bert_model.ckpt), its .index file, or the directory of one checkpoint"
    )
    parser.add_argument("output_dir", help="where the directory goes; must not exist, or be empty")
    parser.add_argument("--config_file", default=None, help="default: the one *config*.json beside the checkpoint")
    parser.add_argument(
        "--vocab_file", default=None, help="vocab.txt or a SentencePiece .model; default: the one beside the checkpoint"
    )
    parser.add_argument(
        "--cased", action=argparse.BooleanOptionalAction, default=None,
        help="keep capitals and accents; default: by do_lower_case of the configuration, else by the folder's name",
    )  # fmt: skip
    return parser.parse_args()


def main():
    args = parse_args()
    set_up_logging(is_main=True)
    convert_checkpoint(args.checkpoint, args.output_dir, args.config_file, args.vocab_file, args.cased)


if __name__ == "__main__":
    run_script(main)
