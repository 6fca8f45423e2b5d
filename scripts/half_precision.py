"""Save a model in half the space, with 16-bit weights; fine-tuning does not notice the difference.

    python scripts/half_precision.py --model_dir runs/pretraining --output_dir models/my-encoder

Writes config.json, model.safetensors, and the files of the tokenizer if --output_dir has none yet.
"""

import json
import shutil
from pathlib import Path

import torch

from bertorch.encoder.albert_tokenizer import FILE_NAMES
from bertorch.encoder.config import load_config
from bertorch.encoder.weights import read_weights, write_weights
from bertorch.errors import UserError
from bertorch.training.arguments import ArgumentParser
from bertorch.training.process_group import run_script
from bertorch.writing import write_all

TOKENIZER_FILES = (
    "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", *FILE_NAMES,
)  # fmt: skip


def parse_args():
    parser = ArgumentParser("Save a model in half the space: its weights in 16 bits.")
    parser.add_argument("--model_dir", required=True, help="a saved directory, or any model directory")
    parser.add_argument("--output_dir", required=True, help="where to write the smaller model")
    return parser.parse_args()


def main(args):
    model_dir, output_dir = Path(args.model_dir), Path(args.output_dir)
    load_config(model_dir)
    tensors = {name: tensor.half() for name, tensor in read_weights(model_dir).items()}
    lost = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise UserError(f"{model_dir}: {lost[0]} holds numbers that 16 bits cannot (above 65504); keep the model as it is")
    if output_dir.resolve() == model_dir.resolve():
        raise UserError(f"--output_dir {output_dir} is --model_dir; name another directory")
    config = {**json.loads((model_dir / "config.json").read_text(encoding="utf-8")), "dtype": "float16"}
    output_dir.mkdir(parents=True, exist_ok=True)
    if not any((output_dir / name).is_file() for name in TOKENIZER_FILES[:2]):
        for name in TOKENIZER_FILES:
            if (model_dir / name).is_file():
                shutil.copy(model_dir / name, output_dir / name)
    write_all(
        {
            output_dir / "config.json": lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"),
            output_dir / "model.safetensors": lambda path: write_weights(path, tensors),
        }
    )
    size = (output_dir / "model.safetensors").stat().st_size
    print(f"{output_dir}: {len(tensors)} tensors, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
