"""The text that models/bertorch-tiny-zh is pretrained on, from the data sets in ../shared/data: one file, and one held out.

    python benchmarks/pretraining_corpus.py --output_dir corpus

Plain text and training splits only. Whatever stands in a development or test split of any of the sets is left out, also
where the plain text holds it: the Wikipedia documents are those of CMRC2018, development passages included. The two texts
of a pair are one document. Written are train.txt.gz and dev.txt, which is every 100th document: a sentence a line, a blank
line between documents.
"""

import argparse
import gzip
import json
import random
import re
from pathlib import Path

from bertorch.data.files import read_lines

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
SENTENCE = re.compile(r".+?(?:[。！？；!?;…]+[”’」』）)]*|$)")


def texts(path):
    """The texts of a data set; those of a pair joined by a line break."""
    name = path.name.removesuffix(".gz")
    if name.startswith(("squad_style", "dev_half")) or path.parent.name == "cjrc":
        content = json.loads("\n".join(line for _, line in read_lines(path)))
        for article in content["data"]:
            yield from (paragraph["context"] for paragraph in article["paragraphs"])
        return
    lines, labels = read_lines(path), {str(score) for score in range(6)}
    if (path.parent / "labels.txt").is_file():
        labels |= {line.strip() for _, line in read_lines(path.parent / "labels.txt")}
    if path.parent.name == "plain" and "commonvoice" not in name:
        document = []
        for _, line in [*lines, (0, "")]:
            if line.strip():
                document.append(line)
            elif document:
                yield "\n".join(document)
                document = []
        return
    for _, line in lines:
        if name.endswith((".json", ".jsonl")):
            row = json.loads(line)
            if "text" in row:
                yield "".join(row["text"])
            elif "content" in row:
                yield row["content"]
            else:
                yield from [row["query"], *row["pos"], *row["neg"]]
        else:
            yield "\n".join(cell for cell in line.split("\t") if cell.strip() not in labels)


def key(text):
    return "".join(text.split())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared_dir", default=SHARED, type=Path, help="holds data")
    parser.add_argument("--output_dir", required=True, type=Path)
    args = parser.parse_args()

    data = args.shared_dir / "data"
    files = [path for path in sorted(data.glob("*/**/*")) if path.suffix in (".txt", ".tsv", ".json", ".jsonl", ".gz")]
    files = [
        path for path in files if not re.search("labels|vocab|sst2|_en|rte|mrpc|wnut|squad_v2", str(path.relative_to(data)))
    ]
    held_files = [path for path in files if re.search("dev|test|cjrc", path.name + path.parent.name)]
    held = {key(part) for path in held_files for text in texts(path) for part in [text, *text.split("\n")]}
    sources = [path for path in files if "train" in path.name or path.parent.name == "plain"]
    documents, seen, left_out = [], set(), 0
    for path in sources:
        characters = 0
        for text in texts(path):
            same = key(text)
            in_held = any(key(part) in held for part in [text, *text.split("\n")])
            left_out += in_held
            if in_held or same in seen:
                continue
            seen.add(same)
            sentences = [found.strip() for line in text.split("\n") for found in SENTENCE.findall(line) if found.strip()]
            documents.append("".join(f"{sentence}\n" for sentence in sentences))
            characters += len(same)
        print(f"{path.relative_to(data)}: {characters} characters that no file before has")
    random.Random(0).shuffle(documents)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(args.output_dir / "train.txt.gz", "wb", mtime=0) as handle:
        handle.write("\n".join(document for row, document in enumerate(documents) if row % 100).encode())
    (args.output_dir / "dev.txt").write_text("\n".join(documents[::100]), encoding="utf-8")
    print(f"{len(documents)} documents; {left_out} left out that stand in development or test sets")


if __name__ == "__main__":
    main()
