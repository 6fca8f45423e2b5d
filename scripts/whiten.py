"""Whiten a model's sentence vectors: mean 0, covariance 1, and fewer dimensions (Su et al. 2021, algorithm 1).

    python scripts/whiten.py --model_dir checkpoint --text_file data/sentences/train.txt --whiten_components 64 \
        --saved_dir checkpoint-whitened

The transform becomes the model's last dense layer, so predict.py and sentence-transformers apply it like any other.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from loguru import logger

from bertorch.data.files import read_lines
from bertorch.encoder.hub import local_directory
from bertorch.errors import UserError
from bertorch.tasks.sentences.contrastive import Contrastive
from bertorch.tasks.sentences.description import Description
from bertorch.tasks.sentences.encoder import Dense
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.training.arguments import ArgumentParser, add_device_argument, whole_number
from bertorch.training.checkpoints import holds_run, save_model
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, start_processes

BLOCK = 16_384  # texts encoded at a time


def parse_args():
    parser = ArgumentParser("Whiten a model's sentence vectors.")
    parser.add_argument(
        "--model_dir", required=True, help="the saved directory of a run, or a sentence-transformers directory"
    )
    parser.add_argument("--text_file", required=True, help="texts to fit on, one per line, also .gz")
    parser.add_argument("--whiten_components", type=whole_number, required=True, help="dimensions to keep")
    parser.add_argument("--saved_dir", required=True, help="where to write the whitened model")
    parser.add_argument("--batch_size", type=whole_number, default=64, help="texts per forward pass")
    add_device_argument(parser)
    return parser.parse_args()


def fit(blocks, components):
    """The whitening layer for vectors that come in blocks ``[rows, width]``; only their sums are kept in memory.

    Raises:
        UserError: the texts span fewer dimensions than ``components``.
    """
    rows, total, products = 0, 0.0, 0.0
    for block in blocks:
        block = block.astype(np.float64)
        rows, total, products = rows + len(block), total + block.sum(axis=0), products + block.T @ block
    if not rows:
        raise UserError("no text to fit on; write one per line")
    mean = total / rows
    values, directions = np.linalg.eigh(products / rows - np.outer(mean, mean))
    values, directions = values[::-1][:components], directions[:, ::-1][:, :components]  # the widest first
    spanned = int((values > 1e-9 * values[0]).sum())
    if len(values) < components or spanned < components:
        raise UserError(f"--whiten_components {components}: {rows} texts span {spanned} dimensions; take fewer components")
    weight = directions / np.sqrt(values)  # [width, components]
    layer = Dense(len(mean), components)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(weight.T.copy()))
        layer.linear.bias.copy_(torch.from_numpy(-mean @ weight))
    return layer


def main():
    args = parse_args()
    processes = start_processes(args)
    directory, saved_dir = local_directory(args.model_dir), Path(args.saved_dir)
    if saved_dir.exists() and not saved_dir.is_dir():
        raise UserError(f"--saved_dir {saved_dir}: this is a file; name a directory")
    if holds_run(saved_dir):
        raise UserError(f"--saved_dir {saved_dir} already holds a model; name another directory")
    if not (directory / Description.marker).is_file():
        raise UserError(f"{directory}: not a sentence encoder; there is no {Description.marker} in it")
    predictor = Predictor.open(directory, Compute(args.batch_size, processes))
    sentence, tokenizer = predictor.model, predictor.tokenizer
    normalize, sentence.normalize = sentence.normalize, False  # comes after the whitening

    def vectors():
        texts = (text.strip() for _, text in read_lines(args.text_file) if text.strip())
        while block := list(islice(texts, BLOCK)):
            yield predictor.vectors(predictor.samples(block))

    layer = fit(vectors(), args.whiten_components)
    sentence.dense.append(layer)
    sentence.normalize = normalize
    description = replace(
        predictor.description,
        pooling_mode=predictor.description.pooling_mode or sentence.pooling_mode,
        max_seq_length=tokenizer.max_seq_length,
        whiten_components=args.whiten_components,
        objective=None,  # a classifier's input width has changed
        labels=None,
        concat_multiply=None,
    )
    if processes.is_main:  # saved as a head without its own weights
        save_model(saved_dir, Contrastive(sentence.cpu()), tokenizer.pretrained, description.to_json())
    logger.info(f"the whitened model, {args.whiten_components} dimensions, is in {saved_dir}")


if __name__ == "__main__":
    run_script(main)
