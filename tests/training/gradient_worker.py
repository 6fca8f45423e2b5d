"""One epoch of plain gradient descent (rate 1, no dropout) through ``Run``; the weights it ends with tell the gradients.

[torchrun --nproc_per_node=N] gradient_worker.py MODEL_DIR DATA OUT BATCH_SIZE ACCUMULATION EPSILON
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
from bertorch.tasks.classification.description import Description
from bertorch.tasks.classification.head import load_classifier
from bertorch.training import run as run_module
from bertorch.training.process_group import run_script, set_seed, start_processes
from bertorch.training.run import Run
from bertorch.training.step import train_step


def descend(model_dir, data, out, batch_size, accumulation, epsilon=0.0, compression=None):
    args = argparse.Namespace(
        device="cpu", precision="fp32", train_data_file=data, dev_data_file=None, saved_dir=f"{out}.dir", seed=7,
        learning_rate=1.0, weight_decay=0.0, scheduler="constant", warmup_proportion=0.0, warmup_steps=None,
        adam_betas=None, adam_epsilon=None, max_grad_norm=0.0, epochs=1,
        max_steps=None, batch_size=batch_size, gradient_accumulation_steps=accumulation, logging_steps=1,
        save_steps=1000, save_seconds=None, save_in_background=None, eval_steps=1000, ddp_compression=compression,
        resume=False, overwrite=True, tensorboard=False, save_best_model=False, metric="accuracy",
        early_stopping_patience=None, gradient_checkpointing=False, compile=False, optimizer="adamw",
        group_by_length=False, dropout=None, freeze_embeddings=False, freeze_layers=0, layer_decay=1.0, ema_decay=0.0,
        fgm_epsilon=epsilon, r_drop_weight=0.0, init_from_ckpt=None, pretrained_model_name_or_path=model_dir,
    )  # fmt: skip
    processes = start_processes(args)
    encoder = TextTokenizer(load_tokenizer(model_dir), 64)
    label_ids = {"negative": 0, "positive": 1}
    samples = tokenize(((row.line, row.texts, label_ids[row.label]) for row in read_rows(data)), encoder)
    set_seed(7)
    model = load_classifier(model_dir, 2)
    original = run_module.make_optimizer
    run_module.make_optimizer = lambda name, model, rate, decay, rates, layer_decay, **_: torch.optim.SGD(
        [{"params": list(model.parameters()), "highest": rate}], lr=rate
    )
    try:
        run = Run(args, model, samples, processes, encoder.pretrained, Description(labels=["0", "1"]))
        for batch in run.batches():
            train_step(run, batch)
    finally:
        run_module.make_optimizer = original
    if processes.is_main:
        save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, out)


def main():
    model_dir, data, out, batch_size, accumulation, epsilon, compression = sys.argv[1:]
    descend(model_dir, data, Path(out), int(batch_size), int(accumulation), float(epsilon), compression)


if __name__ == "__main__":
    run_script(main)
