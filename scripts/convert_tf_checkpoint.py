"""Convert a TensorFlow checkpoint to a Hugging Face directory: Google's BERT and ALBERT, SimBERT, albert_zh.

    pip install tensorflow-cpu
    python scripts/convert_tf_checkpoint.py chinese_L-12_H-768_A-12 bert-base-chinese

Every script takes the directory as --pretrained_model_name_or_path, and transformers opens it, heads included.
"""

import argparse

from bertorch.encoder.tensorflow import convert_checkpoint
from bertorch.training.arguments import ArgumentParser
from bertorch.training.logging import set_up_logging
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Convert a TensorFlow checkpoint to a Hugging Face directory.")
    parser.add_argument(
        "checkpoint", help="its prefix (.../bert_model.ckpt), its .index file, or the directory of one checkpoint"
    )
    parser.add_argument("output_dir", help="where to write the directory; it must be empty or not exist yet")
    parser.add_argument("--config_file", default=None, help="default: the only *config*.json beside the checkpoint")
    parser.add_argument(
        "--vocab_file", default=None, help="vocab.txt or a SentencePiece .model; default: the file beside the checkpoint"
    )
    parser.add_argument(
        "--cased", action=argparse.BooleanOptionalAction, default=None,
        help="keep capitals and accents; default: decided by do_lower_case in the configuration, else by the folder's name",
    )  # fmt: skip
    return parser.parse_args()


def main():
    args = parse_args()
    set_up_logging(is_main=True)
    convert_checkpoint(args.checkpoint, args.output_dir, args.config_file, args.vocab_file, args.cased)


if __name__ == "__main__":
    run_script(main)
