"""Files in the layouts in which they are published or exported, each written here, and each read by the command that
docs/files.md shows for it."""

import gzip
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from bertorch.data.public_sets import SETS
from tests.data.test_tables import save_to_disk, with_features
from tests.scripts.launch import DATA, ROOT, call

_ROW = re.compile(r"^\| (.+?) \| (.*?) \| `(python [^`]+)` \|$", re.MULTILINE)


def rows_of(page: str) -> list[tuple[str, str]]:
    """``(name of a file, command)`` of each row of the tables of a page."""
    return [(name, command) for name, _, command in _ROW.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))]


COMMANDS = dict(rows_of("files.md"))
GOOD, BAD = ["房间很干净", "服务很好，还会来", "早餐好"], ["房间太小了", "服务员不理人"]
REVIEWS = [*((text, "positive") for text in GOOD), *((text, "negative") for text in BAD)]
PAIRS = [("怎么还款", "如何还款", "1"), ("怎么还款", "几点开门", "0"), ("在哪里开会", "会在哪里开", "1")]
NLI = [("他在跑步", "他在运动", "entailment"), ("他在跑步", "他在睡觉", "contradiction"), ("他在跑步", "他很高", "neutral")]
SCORES = [("飞机要起飞了", "飞机正在起飞", "5"), ("他在开车", "他在弹琴", "0"), ("孩子在跳舞", "三个孩子", "3")]
ENTITIES = [("小明在北京开会", [(0, 2, "PER"), (3, 5, "LOC")]), ("天气很好", []), ("北京很大", [(0, 2, "LOC")])]
TYPES = {"LOC": 2, "PER": 1}
PASSAGE, QUESTIONS = "我和小明昨天在北京开会。", [("在哪里开会？", "北京"), ("和谁？", "小明")]
ENGLISH = [("EU rejects German call", ["B-ORG", "O", "B-MISC", "O"]), ("Peter Blackburn", ["B-PER", "I-PER"])]

Expected = dict[str, int] | Counter  # counts of labels, types or answers; or one figure of the data report
Writer = Callable[[Path], Expected]
WRITERS: dict[str, Writer] = {}


def of(*names: str) -> Callable[[Callable[..., Expected]], Callable[..., Expected]]:
    """Register a writer for files of docs/files.md; it gets the folder to write in, and the name if there are several."""

    def register(write: Callable[..., Expected]) -> Callable[..., Expected]:
        for name in names:
            WRITERS[name] = (lambda folder, name=name: write(folder, name)) if len(names) > 1 else write
        return write

    return register


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def lines(rows, separator: str = "\t", header: str = "") -> str:
    return "".join(f"{line}\n" for line in [*([header] if header else []), *map(separator.join, rows)])


def put_sets(folder: Path, content: str | bytes, *names: str) -> None:
    for name in names:
        put(folder / name, content)


def dumped(rows, indent: int | None = None, listed: bool = False) -> str:
    if listed:
        return json.dumps(rows, ensure_ascii=False, indent=indent)
    return "".join(json.dumps(row, ensure_ascii=False, indent=indent) + "\n" for row in rows)


def labels_of(rows) -> Counter:
    return Counter(row[-1] for row in rows)


@of("ChnSentiCorp", "TNEWS")
def reviews(folder, name):
    put_sets(folder / "data" / name, lines(REVIEWS), "train.tsv", "dev.tsv")
    put(folder / "data" / name / "labels.txt", "negative\npositive\n")
    return labels_of(REVIEWS)


@of("AFQMC")
def afqmc(folder):
    put_sets(folder / "data/AFQMC", lines(PAIRS), "train.txt", "dev.txt")
    put(folder / "data/AFQMC/test.txt", lines(row[:2] for row in PAIRS))
    put(folder / "data/AFQMC/labels.txt", "0\n1\n")
    return labels_of(PAIRS)


@of("LCQMC")
def lcqmc(folder):
    put_sets(folder / "data/LCQMC", lines(PAIRS), "train.txt", "dev.txt")
    return labels_of(PAIRS)


@of("CMNLI", "CSNLI", "OCNLI")
def nli(folder, name):
    put_sets(folder / "data" / name, lines(NLI), "train.txt", "dev.txt")
    if name != "OCNLI":
        put(folder / "data" / name / "labels.txt", "entailment\nneutral\ncontradiction\n")
    return labels_of(NLI)


@of("STS-B, Chinese", "Wikipedia sentences", "Paraphrases")
def sentence_vectors(folder, name):
    put_sets(folder / "data/STS-B", lines(SCORES), "sts-b-train.txt", "sts-b-dev.txt")
    put(folder / "data/zhwiki/wiki_sents.txt", lines([text] for text in GOOD + BAD))
    put(folder / "data/batchneg/paraphrase_lcqmc_semantic_pairs.txt", lines(row[:2] for row in PAIRS))
    return {"rows": 5 if name == "Wikipedia sentences" else 3}


def tagged(scheme: str = "BI") -> list[dict]:
    """The entities as characters and tags, single characters aside."""
    found = []
    for text, spans in ENTITIES:
        tags = ["O"] * len(text)
        for start, end, kind in spans:
            middle, last = {"BI": "II", "BME": "ME"}[scheme]
            tags[start:end] = [f"B-{kind}", *[f"{middle}-{kind}"] * (end - start - 2), f"{last}-{kind}"]
        found.append({"text": list(text), "label": tags})
    return found


@of("MSRA", "OntoNotes 4", "Resume", "Weibo")
def json_entities(folder, name):
    folder = folder / "data/ner" / {"OntoNotes 4": "ontonote4"}.get(name, name.lower())
    put_sets(folder, dumped(tagged()), "train.json", "dev.json")
    put(folder / "labels.txt", "O\nB-LOC\nI-LOC\nS-LOC\nB-PER\nI-PER\nS-PER\n")
    return TYPES


def squad(answers: list[dict] | None = None, **more) -> dict:
    entries = [
        {"id": f"{row}", "question": question, "answers": [{"text": text, "answer_start": PASSAGE.index(text)}], **more}
        for row, (question, text) in enumerate(QUESTIONS)
    ]
    for row, given in enumerate(answers or [], len(entries)):
        entries.append({"id": f"{row}", "question": "什么？", **more, **given})
    return {"version": "1.0", "data": [{"title": "a", "paragraphs": [{"context": PASSAGE, "qas": entries}]}]}


@of("CMRC2018", "DRCD", "DuReader-robust", "SQuAD 1.1", "SQuAD 2.0", "CJRC")
def questions(folder, name):
    content, expected, indent = squad(), {"span": 2}, None
    if name == "SQuAD 2.0":
        content = squad([{"answers": [], "is_impossible": True}], is_impossible=False)
        expected = {"span": 2, "none": 1}
    if name == "CJRC":
        none, yes = ([{"text": text, "answer_start": -1}] for text in ("", "YES"))
        content = squad([{"answers": none, "is_impossible": "true"}, {"answers": yes}], is_impossible="false")
        expected, indent = {"span": 2, "none": 1, "yes": 1}, 4
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    text = text.replace("开会", "開會").replace("谁", "誰") if name == "DRCD" else text
    files = {
        "CMRC2018": "data/CMRC2018/cmrc2018_{}.json", "DRCD": "data/DRCD/DRCD_{}.json",
        "DuReader-robust": "dureader_robust-data/{}.json", "SQuAD 1.1": "data/SQuAD/{}-v1.1.json",
        "SQuAD 2.0": "data/SQuAD/{}-v2.0.json", "CJRC": "data/CJRC/{}.json",
    }[name]  # fmt: skip
    sets = {"DRCD": ("training", "dev"), "CJRC": ("big_train_data", "dev_ground_truth")}.get(name, ("train", "dev"))
    put_sets(folder, text, *map(files.format, sets))
    return expected


GLUE = {
    "CoLA": ("", [["gj04", "1", "", "Our friends won't buy."], ["cj99", "0", "*", 'The "more.']], 1),
    "SST-2": ("sentence\tlabel", [["hide new secretions ", "0"], ["a smile ", "1"]], -1),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        [["1", "7", "8", 'He "said.', "He spoke."], ["0", "9", "1", "A.", "B."]], 0,
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        [["1", "2", "3", "Why?", "What?", "0"], ["4", "5", "6", "A?", "B?", "1"]], -1,
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
        "sentence1\tsentence2\tlabel1\tgold_label",
        [["0", "1", "1n", "fiction", "( a )", "( b )", "(S a)", "(S b)", "A dog.", "A cat.", one, one]
         for one in ("neutral", "entailment")], -1,
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        [["0", "When?", "Now.", "entailment"], ["1", "Who?", "No.", "not_entailment"]], -1,
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel", [["0", "A.", "B.", "entailment"], ["1", "C.", "D.", "not_entailment"]], -1,
    ),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", [["0", "A.", "B.", "1"], ["1", "C.", "D.", "0"]], -1),
}  # fmt: skip


@of(*GLUE)
def glue(folder, name):
    header, rows, label = GLUE[name]
    content = lines(rows, header=header)
    if name == "MNLI":
        put(folder / "data/GLUE/MNLI/train.tsv", content)
        wide = header.replace("label1", "label1\tlabel2\tlabel3\tlabel4\tlabel5")
        content = lines(([*row[:11], *["neutral"] * 4, row[11]] for row in rows), header=wide)
        put_sets(folder / "data/GLUE/MNLI", content, "dev_matched.tsv", "dev_mismatched.tsv")
    else:
        put_sets(folder / "data/GLUE" / name, content, "train.tsv", "dev.tsv")
    return Counter(row[label] for row in rows)


@of("STS-B")
def stsb_of_glue(folder):
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    rows = [[f"{row}", "main", "MSR", "2012", "1", "none", "none", 'A "plane.', "A man.", f"{row}.250"] for row in range(3)]
    put_sets(folder / "data/GLUE/STS-B", lines(rows, header=header), "train.tsv", "dev.tsv")
    return {"rows": 3}


@of("AFQMC of CLUE")
def clue_pairs(folder):
    rows = [{"sentence1": first, "sentence2": second, "label": label} for first, second, label in PAIRS]
    put_sets(folder / "afqmc_public", dumped(rows), "train.json", "dev.json")
    return labels_of(PAIRS)


@of("TNEWS of CLUE")
def clue_news(folder):
    rows = [{"label": "108", "label_desc": "news_edu", "sentence": text, "keywords": ""} for text in GOOD]
    rows += [{"label": "104", "label_desc": "news_finance", "sentence": text, "keywords": "房间"} for text in BAD]
    put_sets(folder / "tnews_public", dumped(rows), "train.json", "dev.json")
    return {"news_edu": 3, "news_finance": 2}


@of("CLUENER", "CLUENER, printed over several lines")
def cluener(folder, name):
    rows = []
    for text, spans in ENTITIES:
        label: dict[str, dict[str, list]] = {}
        for start, end, kind in spans:
            label.setdefault(kind, {}).setdefault(text[start:end], []).append([start, end - 1])
        rows.append({"text": text, "label": label})
    put_sets(folder / "cluener_public", dumped(rows), "train.json", "dev.json")
    put(folder / "cluener.json", dumped(rows, indent=2))
    return TYPES


@of("THUCNews")
def thucnews(folder):
    rows = [(text, {"negative": "0", "positive": "2"}[label]) for text, label in REVIEWS]
    put_sets(folder / "THUCNews/data", lines(rows), "train.txt", "dev.txt")
    put(folder / "THUCNews/data/class.txt", "finance\nrealty\nstocks\n")
    return {"finance": 2, "realty": 0, "stocks": 3}


@of("ChnSentiCorp of PaddleNLP")
def paddle_reviews(folder):
    rows = [("1" if label == "positive" else "0", text) for text, label in REVIEWS]
    put(folder / "ChnSentiCorp/train.tsv", lines(rows, header="label\ttext_a"))
    put(folder / "ChnSentiCorp/dev.tsv", lines((("0", *row) for row in rows), header="qid\tlabel\ttext_a"))
    return {"0": 2, "1": 3}


@of("LCQMC of UER")
def uer_pairs(folder):
    rows = [(label, first, second) for first, second, label in PAIRS]
    put_sets(folder / "datasets/lcqmc", lines(rows, header="label\ttext_a\ttext_b"), "train.tsv", "dev.tsv")
    return labels_of(PAIRS)


@of("MSRA of UER", "MSRA of PaddleNLP")
def entities_a_text_a_line(folder, name):
    divider = " " if name == "MSRA of UER" else "\x02"
    content = lines(((divider.join(row["text"]), divider.join(row["label"])) for row in tagged()), header="text_a\tlabel")
    put_sets(folder, content, *(f"datasets/msra_ner/{one}.tsv" for one in ("train", "dev")))
    put_sets(folder, content, "msra_ner/train.tsv", "msra_ner/test.tsv")
    return TYPES


@of("Resume, LatticeLSTM's file")
def characters_and_tags(folder):
    texts = (lines(zip(row["text"], row["label"], strict=True), " ") for row in tagged("BME"))
    put_sets(folder, "\n".join(texts), "train.char.bmes", "dev.char.bmes")
    return TYPES


@of("CoNLL-2003", "WNUT-17")
def english_columns(folder, name):
    texts = [list(zip(text.split(), tags, strict=True)) for text, tags in ENGLISH]
    four = [[(word, "NNP", "B-NP", tag) for word, tag in text] for text in texts]
    content = "-DOCSTART- -X- -X- O\n\n" + "\n".join(lines(text, " ") for text in four)
    put_sets(folder / "conll2003", content, "eng.train", "eng.testa")
    put_sets(folder, "\n".join(map(lines, texts)), "wnut17train.conll", "emerging.dev.conll")
    return {"MISC": 1, "ORG": 1, "PER": 1}


@of("PAWS-X")
def paws(folder):
    content = lines(((f"{row}", *pair) for row, pair in enumerate(PAIRS)), header="id\tsentence1\tsentence2\tlabel")
    put_sets(folder / "x-final/zh", content, "translated_train.tsv", "dev_2k.tsv")
    return labels_of(PAIRS)


@of("STSbenchmark")
def stsbenchmark(folder):
    rows = [["main-captions", "MSRvid", "2012test", "0001", score, *pair] for *pair, score in SCORES]
    rows.append([*rows[0][:5], 'He said "no.', "He said.", "http://a", "http://b"])
    put_sets(folder / "stsbenchmark", lines(rows), "sts-train.csv", "sts-dev.csv")
    return {"rows": 4}


@of("weibo_senti_100k")
def weibo_csv(folder):
    rows = [("1" if label == "positive" else "0", f'"{text}，""真的"""') for text, label in REVIEWS]
    put(folder / "weibo_senti_100k.csv", lines(rows, ",", header="label,review"))
    return {"0": 2, "1": 3}


@of("Jigsaw toxic comments")
def jigsaw(folder):
    header = "id,comment_text,toxic,severe_toxic,obscene,threat,insult,identity_hate"
    rows = ['0,"a comment,\nof two lines",1,0,1,0,0,0', "1,fine,0,0,0,0,0,0", "2,bad,1,1,1,1,1,1"]
    put(folder / "jigsaw/train.csv", lines(([row] for row in rows), header=header))
    return {"toxic": 2, "severe_toxic": 1, "obscene": 2, "threat": 1, "insult": 1, "identity_hate": 1}


@of("Excel's csv", "A workbook")
def excel(folder, name):
    put(folder / "reviews.csv", lines(REVIEWS, ";", header="评论;标签").encode("gbk"))
    book = openpyxl.Workbook()
    for row in [("评论", "标签"), *REVIEWS]:
        book.active.append(row)
    book.save(folder / "reviews.xlsx")
    return labels_of(REVIEWS)


def parquet(path: Path, columns: dict, features: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = with_features(columns, features) if features else pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path)


@of("Parquet of the hub")
def parquet_of_the_hub(folder):
    columns = {"idx": [0, 1, 2], "sentence": ["hide new ", "a smile ", "good "], "label": [0, 1, 1]}
    for name in ("train", "validation"):
        features = {"label": {"names": ["negative", "positive"], "_type": "ClassLabel"}}
        parquet(folder / f"sst2/{name}-00000-of-00001.parquet", columns, features)
    return {"negative": 1, "positive": 2}


@of("save_to_disk")
def saved_to_disk(folder):
    names = ["O", "B-PER", "I-PER", "B-ORG", "B-MISC"]
    tags = [[names.index(tag) for tag in row] for _, row in ENGLISH]
    feature = {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}}
    table = with_features({"tokens": [text.split() for text, _ in ENGLISH], "ner_tags": tags}, feature)
    save_to_disk(table, folder / "conll/train", parts=2)
    save_to_disk(table, folder / "conll/validation", old=True)
    return {"MISC": 1, "ORG": 1, "PER": 1}


@of("SQuAD, parquet")
def squad_parquet(folder):
    answers = [{"text": [text], "answer_start": [PASSAGE.index(text)]} for _, text in QUESTIONS]
    columns = {"id": ["1", "2"], "title": ["a"] * 2, "context": [PASSAGE] * 2, "question": [one for one, _ in QUESTIONS]}
    for name in ("train", "validation"):
        parquet(folder / f"squad/{name}-00000-of-00001.parquet", {**columns, "answers": answers})
    return {"span": 2}


@of("CMRC2018's own layout")
def own_layout_of_cmrc(folder):
    entries = [{"query_text": one, "query_id": f"TRAIN_{text}", "answers": [text]} for one, text in QUESTIONS]
    content = dumped([{"context_id": "TRAIN_186", "context_text": PASSAGE, "qas": entries, "title": "a"}], 1, listed=True)
    put_sets(folder / "cmrc2018/data", content, "cmrc2018_train.json", "cmrc2018_dev.json")
    return {"span": 2}


@of("Questions, json lines")
def question_lines(folder):
    rows = [{"question": one, "context": PASSAGE, "answer": text} for one, text in QUESTIONS]
    put(folder / "questions.jsonl", dumped(rows))
    return {"span": 2}


@of("BGE's training data")
def bge(folder):
    put(folder / "toy_finetune_data.jsonl", dumped({"query": a, "pos": [b], "neg": [c, a]} for a, b, c in NLI))
    return {"rows": 3}


@of("Triplets of sentence-transformers")
def triplets(folder):
    columns = dict(zip(("anchor", "positive", "negative"), map(list, zip(*NLI, strict=True)), strict=True))
    parquet(folder / "all-nli/triplet/train-00000-of-00001.parquet", columns)
    return {"rows": 3}


@of("doccano, classes", "doccano, several labels")
def doccano_classes(folder, name):
    rows = [{"id": row, "text": text, "label": [label], "Comments": []} for row, (text, label) in enumerate(REVIEWS)]
    put(folder / "doccano/all.jsonl", dumped(rows))
    several = [{**rows[0], "label": ["room", "food"]}, {**rows[1], "label": []}, {**rows[2], "label": ["food"]}]
    put(folder / "doccano/labels.jsonl", dumped(several))
    return labels_of(REVIEWS) if name == "doccano, classes" else {"food": 2, "room": 1}


@of("doccano, entities and relations")
def doccano_entities(folder):
    rows = []
    for row, (text, spans) in enumerate(ENTITIES):
        entities = [{"id": at, "label": kind, "start_offset": start, "end_offset": end} for at, (start, end, kind)
                    in enumerate(spans)]  # fmt: skip
        relations = [{"id": 1, "from_id": 0, "to_id": 1, "type": "in"}] if len(spans) > 1 else []
        rows.append({"id": row, "text": text, "entities": entities, "relations": relations, "Comments": []})
    put(folder / "doccano/admin.jsonl", dumped(rows))
    return TYPES


def task(data: dict, results: list[dict]) -> dict:
    return {"id": 1, "annotations": [{"id": 1, "result": results, "was_cancelled": False}], "data": data, "predictions": []}


def span(text: str, start: int, end: int, kind: str) -> dict:
    return {
        "from_name": "label",
        "type": "labels",
        "value": {"start": start, "end": end, "text": text[start:end], "labels": [kind]},
    }


@of("Label Studio, classes")
def label_studio_classes(folder):
    rows = [task({"text": text}, [{"from_name": "sentiment", "type": "choices", "value": {"choices": [label]}}])
            for text, label in REVIEWS]  # fmt: skip
    put(folder / "project-1-at-2026-11-25.json", dumped(rows, listed=True))
    return labels_of(REVIEWS)


@of("Label Studio, several labels")
def label_studio_labels(folder):
    rest = {"annotator": 1, "annotation_id": 1, "created_at": "2026", "updated_at": "2026", "lead_time": 1.5}
    given = [{"choices": ["room", "food"]}, "food", {"choices": ["room", "view"]}]
    rows = [
        {"id": row, "text": text, "topic": topic, **rest} for row, (text, topic) in enumerate(zip(GOOD, given, strict=True))
    ]
    put(folder / "project-2-at-2026-11-25-min.json", dumped(rows, 4, listed=True))
    return {"food": 2, "room": 2, "view": 1}


@of("Label Studio, entities")
def label_studio_entities(folder):
    rows = [task({"text": text}, [span(text, *one) for one in spans]) for text, spans in ENTITIES]
    put(folder / "project-3-at-2026-11-25.json", dumped(rows, 2, listed=True))
    return TYPES


@of("Label Studio, answers")
def label_studio_answers(folder):
    rows = []
    for row, (question, text) in enumerate(QUESTIONS):
        start = PASSAGE.index(text)
        answer = span(PASSAGE, start, start + len(text), "Answer")
        rows.append({**task({"text": PASSAGE, "question": question}, [answer]), "id": row + 1})
    put(folder / "project-4-at-2026-11-25.json", dumped(rows, listed=True))
    return {"span": 2}


@of("Documents", "Wikipedia, parquet")
def documents(folder, name):
    texts = ["\n".join(GOOD), "\n".join(BAD)]
    put(folder / "corpus.txt.gz", gzip.compress("\n\n".join(texts).encode()))
    parquet(folder / "wikipedia/train-00000-of-00006.parquet", {"id": ["1", "2"], "title": ["a", "b"], "text": texts})
    return {"documents": 2, "sentences": 5}


def test_every_file_of_the_page_is_written_here():
    assert len(COMMANDS) == len(rows_of("files.md")) >= 30
    assert set(COMMANDS) == set(WRITERS)


def test_both_languages_show_the_same_commands():
    assert [command for _, command in rows_of("files_zh.md")] == list(COMMANDS.values())


def test_every_public_set_has_a_command():
    """That names files which the set is laid out as; PAWS-X and the bank are part of the paraphrases."""
    for name, one in SETS.items():
        named = {path for command in COMMANDS.values() for path in re.findall(r"data/\S+", command)}
        assert any(f"data/{one.folder}/{file}" in named for file in one.targets), name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_is_read_by_its_command(name, tmp_path, monkeypatch):
    """One update of a small encoder, and the counts of the training set as they were written."""
    expected = WRITERS[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    _, script, *flags = shlex.split(COMMANDS[name])
    flags += ["--pretrained_model_name_or_path", str(DATA / "tiny-encoder"), "--saved_dir", "out", "--max_steps", "1"]
    assert call(script, [*flags, "--device", "cpu"], monkeypatch) == 0
    report = json.loads((tmp_path / "out" / "data_report.json").read_text(encoding="utf-8"))["train"]
    if set(expected) <= {"rows", "documents", "sentences"}:
        assert {figure: report["figures"][figure] for figure in expected} == expected
    else:
        assert report["counts"] == dict(expected)
