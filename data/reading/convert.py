"""Turn marked-up passages and questions into json in the layout of SQuAD 2.0, with character offsets.

Usage: python data/reading/convert.py [FILE.txt ...]

Blocks are separated by blank lines, one block per passage:

    # 图书馆通知
    市图书馆周一闭馆。周二到周日早上九点开门，晚上九点关门。
    ? 市图书馆周二几点关门？
    = 九点 @2
    = 晚上九点
    ? 市图书馆周一开门吗？
    = NO
    ? 市图书馆的馆长是谁？
    = NONE

The line after # is the title. The lines up to the first question are the passage, joined by line breaks. A question (?) is
followed by its answers (=): text that stands in the passage, the first occurrence unless `@2`, `@3` ... follows it, on
several lines if several are acceptable; or alone YES or NO; or alone NONE, where the passage does not tell.

train.txt is written to train.json beside it. YES and NO become an answer at offset -1, NONE becomes no answers and
`"is_impossible": true`. Without file names, the train.txt, dev.txt and test.txt beside this script are taken. If any line of
any file is wrong, nothing is written.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class MarkupError(Exception):
    """What is wrong in the markup, and the remedy, with the number of the line."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def split_blocks(text: str) -> list[list[tuple[int, str]]]:
    """Return the blocks, each a list of numbered lines."""
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            blocks[-1].append((number, line))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def find_answer(answer: str, context: str, number: int) -> dict:
    """Return text and offset of an answer such as `九点` or `九点 @2`."""
    match = re.fullmatch(r"(.*?)\s+@(\d+)", answer)
    text, occurrence = (match[1], int(match[2])) if match else (answer, 1)
    starts = [start for start in range(len(context)) if context.startswith(text, start)]
    if not starts:
        raise MarkupError(number, f"the answer {text!r} is not in the passage; copy it from there, or write YES, NO or NONE")
    if not 1 <= occurrence <= len(starts):
        raise MarkupError(number, f"{text!r} occurs {len(starts)} times in the passage; write @1 to @{len(starts)}")
    return {"text": text, "answer_start": starts[occurrence - 1]}


def parse_question(question: str, lines: list[tuple[int, str]], context: str, number: int) -> dict:
    """Return one question; lines are the numbered answers, without the mark."""
    if not question:
        raise MarkupError(number, "the question is empty; write it after the ?")
    if not lines:
        raise MarkupError(number, "the question has no answer; add a line = answer, or = NONE if the passage does not tell")
    answers: list[dict] = []
    for line_number, line in lines:
        if not line:
            raise MarkupError(line_number, "the answer is empty; write it after the =")
        if line in ("YES", "NO", "NONE"):
            if len(lines) > 1:
                raise MarkupError(line_number, f"{line} stands beside another answer; keep only one of them")
            if line != "NONE":
                answers.append({"text": line, "answer_start": -1})
            continue
        answer = find_answer(line, context, line_number)
        if answer in answers:
            raise MarkupError(line_number, f"the answer {answer['text']!r} is given twice; remove one")
        answers.append(answer)
    return {"question": question, "answers": answers, "is_impossible": not answers}


def parse_block(block: list[tuple[int, str]], name: str) -> dict:
    """Return one article with its only paragraph; name is the beginning of the ids."""
    number, line = block[0]
    title = line[1:].strip()
    if line[0] != "#" or not title:
        raise MarkupError(number, "the block does not begin with a title; write a line # title first")
    size = next((i for i, (_, line) in enumerate(block[1:]) if line[0] in "?=#"), len(block) - 1)
    context = "\n".join(line for _, line in block[1 : 1 + size])
    if not context:
        raise MarkupError(number, f"there is no passage after the title {title!r}; write it on the next line")
    asked: list[tuple[int, str, list[tuple[int, str]]]] = []
    for line_number, line in block[1 + size :]:
        mark, text = line[0], line[1:].strip()
        if mark == "?":
            asked.append((line_number, text, []))
        elif mark == "=" and asked:
            asked[-1][2].append((line_number, text))
        elif mark == "=":
            raise MarkupError(line_number, "the answer has no question; write a line ? question before it")
        else:
            raise MarkupError(
                line_number, "the line is neither ? question nor = answer; add the mark, or a blank line before #"
            )
    if not asked:
        raise MarkupError(number, f"the passage {title!r} has no question; add a line ? question and a line = answer")
    questions = [
        {"id": f"{name}-{i}"} | parse_question(question, lines, context, line_number)
        for i, (line_number, question, lines) in enumerate(asked, start=1)
    ]
    return {"title": title, "paragraphs": [{"context": context, "qas": questions}]}


def convert(path: Path) -> str:
    """Return the json for one markup file; stop the script at the first wrong line."""
    blocks = split_blocks(path.read_text(encoding="utf-8"))
    if not blocks:
        sys.exit(f"{path}:1: there is no passage in the file; write a block, as in the head of this script")
    try:
        articles = [parse_block(block, f"{path.stem}-{i:03d}") for i, block in enumerate(blocks, start=1)]
    except MarkupError as error:
        sys.exit(f"{path}:{error.number}: {error}")
    return json.dumps({"version": "1.0", "data": articles}, ensure_ascii=False, indent=1) + "\n"


def main(names: list[str]) -> None:
    paths = [Path(name) for name in names] or [HERE / f"{name}.txt" for name in ("train", "dev", "test")]
    for path in paths:
        if not path.is_file():
            sys.exit(f"{path}: there is no such file; give the path of a marked-up .txt file")
        if path.suffix != ".txt":
            sys.exit(f"{path}: the name does not end in .txt; rename it, so that the .json is written beside it")
    converted = [convert(path) for path in paths]
    for path, text in zip(paths, converted, strict=True):
        path.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
