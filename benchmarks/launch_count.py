"""Kernels that one training step launches on a GPU, and bytes that they move: counted, without a GPU.

    python benchmarks/launch_count.py
    python benchmarks/launch_count.py --batch_sizes 32 --operators

BERT of 12 layers, 768 wide, bf16, dropout 0.1, rows of --max_seq_length tokens: run_classifier.py as it is, beside the same
step with transformers' BertForSequenceClassification as the Trainer makes it: autocast, clipping, fused AdamW, and sdpa,
which takes flash attention where no row is padded. Both run on tensors without values (`tests/pretended_cuda.py`, which
needs a C++ compiler). Each operator counts as one launch, also one over a list of tensors; some launch a few. Each operand
counts once, as if nothing stayed in a cache.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from chunked_batch import ROOT

sys.path.insert(0, str(ROOT))
from tests import pretended_cuda as pretended  # noqa: E402  (its library is loaded before torch)

PHASES = ("forward", "backward", "update")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--operators", action="store_true", help="list the operators, most frequent first")
    return parser.parse_args()


def ours(args: argparse.Namespace, batch_size: int, folder: Path) -> None:
    """The second update of run_classifier.py."""
    from bertorch.encoder import EncoderConfig

    encoder = folder / "encoder"
    shutil.rmtree(encoder, ignore_errors=True)
    shutil.copytree(ROOT / "data" / "tiny-encoder", encoder)
    config = EncoderConfig()
    (encoder / "config.json").write_text(pretended.json.dumps({**config.to_dict(), "model_type": "bert"}))
    row = "好" * args.max_seq_length
    (folder / "train.tsv").write_text("".join(f"{row}\t{label % 2}\n" for label in range(2 * batch_size)), encoding="utf-8")
    (folder / "labels.txt").write_text("0\n1\n", encoding="utf-8")
    seen = pretended.observe(
        {
            "script": "run_classifier",
            "flags": {
                "pretrained_model_name_or_path": encoder, "train_data_file": folder / "train.tsv",
                "label_file": folder / "labels.txt", "precision": args.precision, "batch_size": batch_size,
                "max_seq_length": args.max_seq_length, "cache_dir": folder / "cache",
            },
        }
    )  # fmt: skip
    if seen["error"] or seen["findings"]:
        sys.exit(f"run_classifier.py: {seen['error']} {seen['findings']}")


def theirs(args: argparse.Namespace, batch_size: int, folder: Path) -> None:
    """The second update of transformers' classifier."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def flash(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]

    torch.nn.functional.scaled_dot_product_attention = flash  # what a GPU would choose; without one torch cannot
    watch, device = pretended.watch, torch.device("cuda")
    with pretended.FakeTensorMode(allow_non_fake_inputs=True), watch:
        with device:
            model = BertForSequenceClassification(BertConfig(vocab_size=21128, attn_implementation="sdpa")).train()
            shape = (batch_size, args.max_seq_length)
            batch = {name: torch.ones(shape, dtype=torch.long) for name in ("input_ids", "token_type_ids")}
            batch["labels"] = torch.ones(batch_size, dtype=torch.long)
        plain = [parameter for parameter in model.parameters() if parameter.dim() == 1]
        decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=5e-5, fused=True)
        for _ in range(2):
            watch.clear()
            watch.phase = "forward"
            with torch.autocast("cuda", torch.bfloat16, enabled=args.precision == "bf16"):
                loss = model(**batch).loss
            watch.phase = "backward"
            loss.backward()
            watch.phase = "update"
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.phase = None


def count(args: argparse.Namespace) -> None:
    pretended.prepare()
    print(f"torch {pretended.torch.__version__}; rows of {args.max_seq_length} tokens, {args.precision}\n")
    print(
        "| batch | side | forward | backward | update | launches | GB moved |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in args.batch_sizes:
            for name, side in (("bertorch", ours), ("transformers", theirs)):
                side(args, batch_size, Path(folder))
                watch = pretended.watch
                launches = [watch.launches[phase] for phase in PHASES]
                moved = sum(watch.moved.values()) / 1e9
                row = [batch_size, name, *launches, sum(launches), f"{moved:.1f}"]
                print(f"| {' | '.join(map(str, row))} |", flush=True)
                if args.operators:
                    for phase in PHASES:
                        found = [(times, name) for (of, name), times in watch.operators.items() if of == phase]
                        print(f"  {phase}: {', '.join(f'{name} {times}' for times, name in sorted(found, reverse=True))}")
    sys.stdout.flush()
    os._exit(0)  # torch would look for its GPU while it ends


def main() -> None:
    args = parse_args()
    if pretended.LIBRARY in os.environ:
        count(args)
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = pretended.compiled(Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"benchmarks/launch_count.py needs a C++ compiler: {error}")
        sys.exit(subprocess.run([sys.executable, *sys.argv], env={**os.environ, pretended.LIBRARY: str(library)}).returncode)


if __name__ == "__main__":
    main()
