"""Cut each line that puts a trick in effect and see the tests of that trick fail.

    python -m tests.mutations              # all, in about ten minutes; a table for benchmarks/RELIABILITY.md
    python -m tests.mutations --only FGM

A cut is made in a copy of the tree. Every test that belongs to it must fail there, and pass in the copy without it. The exit
code is 1 where one does not, or where the text to cut is no longer found: then the table here must follow the code.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIRING = "tests/scripts/test_wiring.py"
READING = "tests/scripts/test_run_mrc.py"
FLAGS = "tests/scripts/test_optimisation_flags.py"
SCRIPTS = ("classifier", "sentencebert", "simcse", "batchneg", "ner", "mrc", "choice", "pretraining")
CLASSES = ("classifier", "sentencebert", "ner")
RUN, STEP, START = (f"bertorch/training/{name}.py" for name in ("run", "step", "start"))
PLAIN_STEP = """        with run.autocast():
            loss = run.model(batch)
        run.backward(loss)
        run.step()
"""


@dataclass
class Cut:
    """``text`` of ``file``, which stands there once, becomes ``instead``; then the tests that ``tests`` selects fail."""

    what: str
    file: str
    text: str
    instead: str
    tests: str  # as for pytest -k
    of: str = WIRING


CUTS = [
    *(
        Cut(f"train_step of run_{script}.py: a step without tricks", f"run_{script}.py", "        train_step(run, batch)\n",
            PLAIN_STEP, f"test_gradients and run_{script} and (FGM or R-Drop)")
        for script in SCRIPTS
    ),
    Cut("FGM", STEP, "if args.fgm_epsilon:", "if False:", "test_gradients and FGM"),
    Cut("R-Drop", STEP, "if args.r_drop_weight:", "if False:", "test_gradients and R-Drop"),
    Cut("16 bit", STEP, "args = run.args\n    with run.autocast():", "args = run.args\n    if True:",
        "test_gradients and bf16"),
    Cut("averages are not moved", RUN, "average(self.averages, self.weights, self.args.ema_decay, self.global_step)", "pass",
        "test_averaged_weights"),
    Cut("averages in evaluation", RUN, "        if self.evaluation_due:\n            self._put_in(self.averages)\n", "",
        "test_averaged_weights"),
    Cut("averages in saving", RUN, "            self._put_in(self.averages)\n            try:\n", "            try:\n",
        "test_averaged_weights and last"),
    Cut("weights come back where they are recorded", RUN,
        "        self._put_in(self.weights)\n        self.bare_model.train()\n", "        self.bare_model.train()\n",
        "test_trained_weights_come_back"),
    Cut("weights come back before a state is saved", RUN,
        "            self._save_model()\n        self._put_in(self.weights)\n", "            self._save_model()\n",
        "test_trained_weights_come_back and True"),
    Cut("weights come back before the next step", RUN, "                        self._put_in(self.weights)\n",
        "                        pass\n", "test_trained_weights_come_back and False"),
    *(
        Cut(f"loss over classes of run_{script}.py", f"run_{script}.py", "model.class_loss =", "unused =",
            f"(test_smoothed_and_focal_loss or test_class_weights) and run_{script}")
        for script in CLASSES
    ),
    *(
        Cut(f"dropout masks of run_{script}.py", f"run_{script}.py", "model.dropout_samples = args.dropout_samples", "pass",
            f"test_dropout_samples and run_{script}")
        for script in ("classifier", "ner")
    ),
    Cut("layer decay", RUN, "rates, args.layer_decay", "rates, 1.0", "test_what_is_trained and decay"),
    Cut("frozen parts", RUN, "        freeze(model.encoder, args.freeze_embeddings, args.freeze_layers)\n", "",
        "test_what_is_trained and not decay"),
    Cut("frozen embeddings", RUN, "args.freeze_embeddings, args.freeze_layers)", "False, args.freeze_layers)",
        "test_what_is_trained and embeddings"),
    Cut("frozen layers", RUN, "args.freeze_embeddings, args.freeze_layers)", "args.freeze_embeddings, 0)",
        "test_what_is_trained and layer and not decay"),
    Cut("accumulation", RUN, "self._update_due = self.batch % self.accumulation == 0 or self.batch == len(plan)",
        "self._update_due = True", "test_accumulation"),
    Cut("what an update is divided by", RUN, "self.processes.world_size * self._nominal_count / count", "1.0",
        "test_accumulation"),
    Cut("rows of like length", RUN, "            args.group_by_length,\n        )", "            False,\n        )",
        "test_a_resumed_epoch and True"),
    Cut("the order of each epoch", RUN, "plan = self._plan(self.epoch)", "plan = self._plan(0)", "test_a_resumed_epoch"),
    Cut("the epoch is resumed", RUN, 'for name in ("global_step", "epoch", "batch",', 'for name in ("global_step", "batch",',
        "test_a_resumed_epoch"),
    Cut("the place in the epoch is resumed", RUN, 'for name in ("global_step", "epoch", "batch",',
        'for name in ("global_step", "epoch",', "test_a_resumed_epoch"),
    Cut("random numbers are resumed", RUN,
        '        _restore_random_states(tensors["generators"][self.processes.rank], self.processes.device)\n', "",
        "test_a_resumed_epoch"),
    Cut("a fixed order of sums", "bertorch/training/start.py", "if args.deterministic:", "if False:", "test_deterministic"),
    Cut("the stop flag", RUN, "        if stop:", "        if False:", "test_a_signal or test_a_resumed_epoch"),
    Cut("the stop flag of other processes", RUN, "        if stop:", "        if self._signal:",
        "test_a_signal_to_one_process"),
    Cut("a stopped run saves", RUN, " or self._stopping is not None\n", "\n", "test_a_signal or test_a_resumed_epoch"),
    Cut("what the model keeps of an evaluation", RUN, "                **self.kept,\n", "",
        "test_a_resumed_run_keeps or test_a_state_that_holds", READING),
    Cut("what the model keeps, resumed", RUN, 'self.kept = state.get("kept", {})', "self.kept = {}",
        "test_a_resumed_run_keeps and False", READING),
    Cut("flag: dropout", RUN, "            model.encoder.set_dropout(args.dropout)\n", "            pass\n",
        "test_dropout", FLAGS),
    Cut("flag: betas and epsilon", RUN, "            epsilon=args.adam_epsilon, betas=args.adam_betas,\n", "",
        "test_optimizer and (flags2 or flags3)", FLAGS),
    Cut("flag: warm-up in steps", RUN, " if warmup_steps is None else warmup_steps\n", "\n", "test_warmup_steps", FLAGS),
    Cut("flag: masked tokens at most", "run_pretraining.py", "args.seed, args.max_predictions\n", "args.seed\n",
        "test_max_predictions", FLAGS),
    Cut("flag: lengths of parts", START, "        max_part_lengths=args.max_part_lengths,\n", "",
        "test_it_trains_on_cut_texts", "tests/scripts/test_part_lengths.py"),
    Cut("flag: added tokens", START, "args.max_seq_length, args.add_tokens,", "args.max_seq_length, [],",
        "test_from_training_to_transformers", "tests/data/test_larger_model.py"),
    Cut("flag: more positions", START, "args.add_tokens, args.extend_positions,", "args.add_tokens, False,",
        "test_from_training_to_transformers", "tests/data/test_larger_model.py"),
    Cut("flag: layers of the classifier", "run_classifier.py", ", **description.layers)", ")",
        "test_classifiers and not attention", "tests/scripts/test_pooling.py"),
    *(
        Cut(f"flag: layers that run_{script}.py pools", f"run_{script}.py", "pooling_layers=args.pooling_layers,", "",
            f"test_scalar_mix_of_sentences and run_{script}", "tests/scripts/test_pooling.py")
        for script in ("sentencebert", "simcse", "batchneg")
    ),
]  # fmt: skip


def outdated(cut: Cut) -> str:
    """What is wrong with a cut whose text does not stand once in its file; empty where it does."""
    found = (ROOT / cut.file).read_text(encoding="utf-8").count(cut.text)
    return "" if found == 1 else f"{cut.file}: {cut.text!r} is there {found} times, not once; change tests/mutations.py"


def copy_tree(to: Path) -> None:
    """All files that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def failed_and_passed(tree: Path, file: str, tests: str) -> tuple[int, int]:
    """How many of the selected tests failed and passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", file, "-k", tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    last = done.stdout.strip().splitlines()[-1]
    failed, passed = (re.search(rf"(\d+) {kind}", last) for kind in ("failed", "passed"))
    return int(failed[1]) if failed else 0, int(passed[1]) if passed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cuts with this in their name")
    args = parser.parse_args()
    cuts = [cut for cut in CUTS if args.only in cut.what]
    for cut in cuts:  # before anything is run
        if found := outdated(cut):
            sys.exit(found)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for file in sorted({cut.of for cut in cuts}):
            selected = " or ".join(sorted({f"({cut.tests})" for cut in cuts if cut.of == file}))
            failed, passed = failed_and_passed(tree, file, selected)
            print(f"without a cut: {passed} pass and {failed} fail in {file}\n", flush=True)
            if failed:
                return 1
        print("| what is cut | where | tests | red |\n| --- | --- | --- | --- |", flush=True)
        for cut in cuts:
            whole = (tree / cut.file).read_text(encoding="utf-8")
            (tree / cut.file).write_text(whole.replace(cut.text, cut.instead), encoding="utf-8")
            failed, passed = failed_and_passed(tree, cut.of, cut.tests)
            (tree / cut.file).write_text(whole, encoding="utf-8")
            wrong += passed > 0 or failed == 0
            print(f"| {cut.what} | `{cut.file}` | `{cut.tests}` | {failed} of {failed + passed} |", flush=True)
    print(f"\n{len(cuts) - wrong} of {len(cuts)} cuts turn all their tests red")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
