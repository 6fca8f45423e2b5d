"""Prepare and read a corpus of ten million sentences, and print the peak of memory that this takes.

    python benchmarks/corpus_memory.py --text_file ../shared/data/plain/commonvoice_wiki_zh.txt

The file is repeated until there are --sentences of them, with a blank line after every tenth. A process of its own tokenizes
them as run_pretraining.py does, then draws 200 batches of 64 texts from all over. Printed are its own memory (private pages)
and all that it had resident: pages of the mapped cache too, which the system takes back when it needs them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
from classifier_quality import ROOT

from bertorch.data.files import read_lines
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.tasks.pretraining.masking import Masking
from bertorch.tasks.pretraining.rows import tokenize_documents


def memory():
    """Private and resident megabytes of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    private, resident = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
    return private, resident


def watch(peaks, stopped):
    while not stopped.wait(0.05):
        peaks[:] = [max(pair) for pair in zip(peaks, memory(), strict=True)]


def measure(args):
    peaks, stopped = [0.0, 0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, stopped))
    watcher.start()
    encoder = TextTokenizer(load_tokenizer(args.encoder), 128)
    masking = Masking(encoder, ("mlm", "sop"))
    before = memory()
    print(f"before: {before[0]:.0f} MB private, {before[1]:.0f} MB resident", flush=True)
    started = time.perf_counter()
    documents = tokenize_documents([args.prepare], encoder, masking.room, False, Path(args.prepare).parent)
    seconds = time.perf_counter() - started
    print(
        f"prepared {len(documents.sentence_starts) - 1} sentences, {len(documents.input_ids)} tokens, "
        f"{len(documents)} texts in {seconds:.0f} s: {peaks[0]:.0f} MB private, {peaks[1]:.0f} MB resident",
        flush=True,
    )
    masking.check(documents, args.prepare)
    rng = np.random.default_rng(0)
    weight = masking.expected(documents)
    started = time.perf_counter()
    for _ in range(200):
        masking.collate(documents, rng.integers(len(documents), size=64), 0)
    seconds = time.perf_counter() - started
    stopped.set()
    watcher.join()
    print(
        f"read 200 batches of 64 texts in {seconds:.1f} s ({weight:.1f} masked tokens a text): {peaks[0]:.0f} MB private, "
        f"{peaks[1]:.0f} MB resident"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text_file", required=True, help="sentences, one a line")
    parser.add_argument("--sentences", type=int, default=10_000_000)
    parser.add_argument("--encoder", default=ROOT / "models/bertorch-tiny-zh")
    parser.add_argument("--prepare", default=None, help=argparse.SUPPRESS)  # the file, in the process that is measured
    args = parser.parse_args()
    if args.prepare:
        measure(args)
        return
    lines = [line for _, line in read_lines(args.text_file) if line.strip()]
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary) / "corpus.txt"
        with open(corpus, "w", encoding="utf-8") as handle:
            for number in count():
                if number == args.sentences:
                    break
                handle.write(lines[number % len(lines)] + ("\n" if number % 10 < 9 else "\n\n"))
        print(f"{args.sentences} sentences, {corpus.stat().st_size / 1e6:.0f} MB of text", flush=True)
        command = [sys.executable, __file__, "--text_file", args.text_file, "--encoder", args.encoder, "--prepare", corpus]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        raise SystemExit(subprocess.run([str(part) for part in command], env=environment).returncode)


if __name__ == "__main__":
    main()
