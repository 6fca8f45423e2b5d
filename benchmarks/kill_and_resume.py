"""Kill a training with SIGKILL at random moments, many times; show that nothing is lost.

    python benchmarks/kill_and_resume.py --kills 30
    python benchmarks/kill_and_resume.py --kills 30 --save_in_background

An undisturbed run comes first. The same run is then started again and again with --resume and killed after a random time;
after every kill the saved directory must load. In the end its weights must equal those of the undisturbed run, bit for bit.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from bertorch.reporting.runs import latest_state
from bertorch.tasks.classification.head import load_trained_classifier

ROOT = Path(__file__).resolve().parents[1]


def command(saved_dir: Path, args: argparse.Namespace) -> list[str]:
    reviews = ROOT / "data" / "reviews"
    return [
        sys.executable, str(ROOT / "run_classifier.py"), "--resume", "--pretrained_model_name_or_path", args.model,
        "--train_data_file", str(reviews / "train.tsv"), "--dev_data_file", str(reviews / "dev.tsv"),
        "--label_file", str(reviews / "labels.txt"), "--saved_dir", str(saved_dir), "--learning_rate", "5e-4",
        "--epochs", str(args.epochs), "--batch_size", "8", "--save_steps", "3", "--eval_steps", "6", "--save_best_model",
        "--device", "cpu", *(["--save_in_background"] if args.save_in_background else []),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=str(ROOT / "data" / "tiny-encoder"))
    parser.add_argument("--longest", type=float, default=4.0, help="seconds after the first saved state of a start")
    parser.add_argument("--save_in_background", action="store_true")
    args = parser.parse_args()
    moments = random.Random(args.seed)

    with tempfile.TemporaryDirectory() as folder:
        reference, saved_dir = Path(folder) / "undisturbed", Path(folder) / "killed"
        subprocess.run(command(reference, args), check=True, stderr=subprocess.DEVNULL)
        kills = loads = 0
        code = None
        while kills < args.kills and code is None:
            before = latest_state(saved_dir)
            process = subprocess.Popen(command(saved_dir, args), stderr=subprocess.DEVNULL)
            while process.poll() is None and latest_state(saved_dir) == before:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, args.longest))
            code = process.poll()
            process.kill()
            process.wait()
            kills += code is None
            if (saved_dir / "model.safetensors").exists():
                load_trained_classifier(saved_dir, 2)
                loads += 1
            print(f"kill {kills}: {latest_state(saved_dir)}", flush=True)
        if code is None:
            subprocess.run(command(saved_dir, args), check=True, stderr=subprocess.DEVNULL)
        expected, found = load_file(reference / "model.safetensors"), load_file(saved_dir / "model.safetensors")
        equal = all(torch.equal(expected[name], found[name]) for name in expected)
    print(f"{kills} kills, the model loaded after {loads}, the weights are {'equal' if equal else 'DIFFERENT'}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
