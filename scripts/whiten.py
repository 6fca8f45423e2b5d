"""Whiten a model's sentence vectors: mean 0, covariance 1, and fewer dimensions (Su et al. 2021, algorithm 1).

    python scripts/whiten.py --model_dir checkpoint --text_file data/sentences/train.txt --whiten_components 64 \
        --saved_dir checkpoint-whitened

The transform becomes the model's last dense layer, so that predict.py and sentence-transformers apply it without knowing.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from loguru import logger

from bertorch.data.files import read_lines
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
from bertorch.encoder.hub import local_directory
from bertorch.errors import UserError
from bertorch.tasks.description import description_of
from bertorch.tasks.sentences.contrastive import Contrastive
from bertorch.tasks.sentences.directory import load_sentence_encoder, transformer_directory
from bertorch.tasks.sentences.encoder import Dense
from bertorch.training.arguments import ArgumentParser, add_device_argument, whole_number
from bertorch.training.checkpoints import holds_run, save_model
from bertorch.training.inference import compute
from bertorch.training.process_group import run_script, start_processes

BLOCK = 16_384  # texts encoded at a time


def parse_args():
    parser = ArgumentParser("Whiten a model's sentence vectors.")
    parser.add_argument(
        "--model_dir", required=True, help="the saved directory of a run, or a sentence-transformers directory"
    )
    parser.add_argument("--text_file", required=True, help="texts to fit on, one a line, also .gz")
    parser.add_argument("--whiten_components", type=whole_number, required=True, help="dimensions to keep")
    parser.add_argument("--saved_dir", required=True, help="where the whitened model goes")
    parser.add_argument("--batch_size", type=whole_number, default=64, help="texts a forward pass")
    add_device_argument(parser)
    return parser.parse_args()


def fit(blocks, components):
    """The whitening layer for vectors that come in blocks ``[rows, width]``; their sums are kept, not they.

    Raises:
        UserError: the texts span fewer dimensions than ``components``.
    """
    rows, total, products = 0, 0.0, 0.0
    for block in blocks:
        block = block.astype(np.float64)
        rows, total, products = rows + len(block), total + block.sum(axis=0), products + block.T @ block
    if not rows:
        raise UserError("no text to fit on; write one a line")
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
        raise UserError(f"--saved_dir {saved_dir}: a file stands there; name a directory")
    if holds_run(saved_dir):
        raise UserError(f"--saved_dir {saved_dir} already holds a model; name another directory")
    sentence, length = load_sentence_encoder(directory)
    normalize, sentence.normalize = sentence.normalize, False  # comes after the whitening
    description = description_of(directory) or {"task": "sentence_vectors", "pooling_mode": sentence.pooling_mode}
    length = description.get("max_seq_length") or min(length or 512, sentence.encoder.config.max_seq_length)
    tokenizer = load_tokenizer(transformer_directory(directory))
    sentence.encoder.config.check_length(length, directory)
    encoder = TextTokenizer(tokenizer, length, description.get("truncation", "head"))
    sentence.encoder.config.check_vocabulary(encoder.highest_id, directory)

    def vectors():
        texts = (text.strip() for _, text in read_lines(args.text_file) if text.strip())
        while block := list(islice(texts, BLOCK)):
            samples = tokenize(((line, (text,), -1) for line, text in enumerate(block, 1)), encoder)
            yield compute(sentence, sentence, samples, args.batch_size, processes)

    sentence.to(processes.device)
    layer = fit(vectors(), args.whiten_components)
    sentence.dense.append(layer)
    sentence.normalize = normalize
    of_classifier = ("objective", "labels", "concat_multiply")  # its input has another width now
    description = {name: value for name, value in description.items() if name not in of_classifier}
    description.update(max_seq_length=length, whiten_components=args.whiten_components)
    if processes.is_main:
        save_model(saved_dir, Contrastive(sentence.cpu()), tokenizer, description)  # a head without weights of its own
    logger.info(f"the whitened model, {args.whiten_components} dimensions, stands in {saved_dir}")


if __name__ == "__main__":
    run_script(main)
