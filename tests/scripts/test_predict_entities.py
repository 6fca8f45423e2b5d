"""predict.py with entity models: what it finds in texts of any kind, and how it writes it down."""

import gzip
import io
import json
import re
import shutil
import sys

import pytest
import torch
from seqeval.scheme import IOB2, Entities
from transformers import AutoModelForTokenClassification, AutoTokenizer

from bertorch.tasks.entities import predictor as prediction
from bertorch.tasks.entities.answers import Findings
from tests.scripts.conftest import NAMES
from tests.scripts.launch import DATA, as_flags, call, complaint, run

HEADS = ("linear", "crf", "global_pointer")
SENTENCES = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()
TYPES = ["PER", "LOC", "ORG"]


@pytest.fixture(params=HEADS)
def model(request, entity_model):
    return entity_model(request.param)


def feed(monkeypatch, stdin):
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(**flags)`` -> standard output, of a call that went well."""

    def answer(stdin=None, **flags):
        capsys.readouterr()
        feed(monkeypatch, stdin)
        code = call("predict.py", as_flags(device="cpu", **flags), monkeypatch)
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return answer


@pytest.fixture
def refused(monkeypatch, capsys):
    """``refused(**flags)`` -> the one line that a call ends with."""

    def answer(stdin=None, **flags):
        capsys.readouterr()
        feed(monkeypatch, stdin)
        assert call("predict.py", as_flags(device="cpu", **flags), monkeypatch) == 2
        found = capsys.readouterr()
        assert found.out == ""
        return complaint(found.err)

    return answer


def from_json(printed):
    r"""The objects of json lines, which ``\n`` alone separates."""
    assert printed.endswith("\n")
    return [json.loads(line) for line in printed.split("\n")[:-1]]


def from_tsv(printed):
    """``(line, type, text, start, end, confidence)`` of each line."""
    rows = [line.split("\t") for line in printed.split("\n")[:-1]]
    return [(int(line), kind, text, int(start), int(end), float(share)) for line, kind, text, start, end, share in rows]


def triples(line):
    """Type, start and end of each entity of a json line."""
    return [(one["type"], one["start"], one["end"]) for one in line["entities"]]


def names_in(text):
    """Where the names that the models have learned stand."""
    return [(NAMES[match.group()], *match.span()) for match in re.finditer("|".join(NAMES), text)]


def write(path, *lines):
    """A string stands as it is, anything else becomes JSON."""
    lines = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def sentence(number, *names):
    """A sample sentence with names in it; about 20 characters."""
    text = SENTENCES[number]
    return text[:5] + "".join(name + text[5 + 4 * place : 9 + 4 * place] for place, name in enumerate(names))


PLAIN = [
    sentence(330, "诸葛曹", "敦煌"),
    sentence(331),
    "",
    sentence(332, "鲁紫"),
    sentence(333, "敦煌", "诸葛曹", "鲁紫"),
]
STRANGE = [
    "去了😀敦煌😀，说好的👨‍👩‍👧诸葛曹也来",
    "１２３敦煌１２３ 号，诸葛曹４５",
    "he said 敦煌 is in China，Mr诸葛曹 too, ok",
    "他说\t敦煌\t不大\t诸葛曹",
    "上面\u200b敦煌\u200b和\ufeff诸葛曹\u200d的",
    "第一\u2028敦煌\u2028第二\u0085诸葛曹\x1c了",
    "é́à敦煌ü，𠮷诸葛曹𠮷",
    "(敦煌)[诸葛曹]“鲁紫”…",
]


# Inputs


def test_lines_of_text(model, predict, tmp_path):
    """From a file, a packed one, or standard input; a blank line is counted and has no answer."""
    path = write(tmp_path / "texts.txt", *PLAIN)
    printed = predict(model_dir=model, input_file=path)
    assert predict(model_dir=model, stdin="\n".join(PLAIN)) == printed  # without an end of the last line
    (tmp_path / "texts.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert predict(model_dir=model, input_file=tmp_path / "texts.gz") == printed
    expected = [(line, *one) for line, text in enumerate(PLAIN, 1) for one in names_in(text)]
    found = from_tsv(printed)
    assert [(line, kind, start, end) for line, kind, _, start, end, _ in found] == expected
    assert len(expected) == 6
    for line, _, surface, start, end, confidence in found:
        assert surface == PLAIN[line - 1][start:end] and 0.5 < confidence <= 1


def test_json_lines_out(entity_model, predict, tmp_path):
    """A line a text; the same answers as in the table."""
    model, out = entity_model("global_pointer"), tmp_path / "out.jsonl"
    path = write(tmp_path / "texts.txt", *PLAIN)
    predict(model_dir=model, input_file=path, output_file=out)
    lines = from_json(out.read_text(encoding="utf-8"))
    assert [line["text"] for line in lines] == PLAIN
    assert [triples(line) for line in lines] == [names_in(text) for text in PLAIN]
    table = from_tsv(predict(model_dir=model, input_file=path))
    listed = [
        (number, one["type"], one["text"], one["start"], one["end"], one["confidence"])
        for number, line in enumerate(lines, 1)
        for one in line["entities"]
    ]
    assert listed == table
    assert predict(model_dir=model, input_file=path, output_format="jsonl") == out.read_text(encoding="utf-8")


def test_json_lines_in(entity_model, predict, tmp_path):
    """Strings, lists of characters or words; what they say of entities is not heard."""
    model, text = entity_model("crf"), PLAIN[0]
    lines = [
        {"text": text},
        {"text": list(text)},
        {"text": text, "entities": [[0, 1, "GPE"]]},
        {"tokens": list(text), "tags": ["O"] * len(text)},
        {"text": ["去", "Paris", *"敦煌", "ok"]},
        {"text": ""},
        {"text": "", "other": 1},
        {"text": PLAIN[3]},
    ]
    path = write(tmp_path / "texts.jsonl", *lines)
    found = from_json(predict(model_dir=model, input_file=path, output_format="jsonl"))
    assert [line["text"] for line in found] == [text] * 4 + ["去 Paris 敦 煌 ok", "", "", PLAIN[3]]
    assert [triples(line) for line in found[:4]] == [names_in(text)] * 4
    assert triples(found[4]) == [("LOC", 8, 11)]
    assert [line["entities"] for line in found[5:7]] == [[], []]
    assert triples(found[7]) == names_in(PLAIN[3])
    stdin = "".join(json.dumps(line) + "\n" for line in lines)
    assert from_json(predict(model_dir=model, stdin=stdin, input_format="jsonl", output_format="jsonl")) == found


def test_columns_with_figures(entity_model, predict, tmp_path):
    """A third of the names are not marked in the file, and one mark is wrong."""
    model, rows = entity_model("crf"), []
    for number in range(30):
        text = sentence(340 + number, *(list(NAMES) * 2)[number % 3 : number % 3 + number % 4])
        gold = names_in(text)
        rows.append((text, gold[1:] if number % 3 == 0 else gold))
    rows[4] = (rows[4][0], [("ORG", 0, 2)])
    columns = []
    for text, gold in rows:
        tags = ["O"] * len(text)
        for kind, start, end in gold:
            tags[start:end] = [f"B-{kind}"] + [f"M-{kind}"] * (end - start - 2) + [f"E-{kind}"] * (end - start > 1)
        columns += [f"{sign}\t{tag}" for sign, tag in zip(text, tags, strict=True)] + [""]
    path, out = write(tmp_path / "gold.txt", *columns), tmp_path / "out.jsonl"
    printed = predict(model_dir=model, input_file=path, evaluate=True, output_file=out).splitlines()
    lines = from_json(out.read_text(encoding="utf-8"))
    assert [line["text"] for line in lines] == [text for text, _ in rows]
    found = {(row, *one) for row, line in enumerate(lines) for one in triples(line)}
    gold = {(row, *one) for row, (_, entities) in enumerate(rows) for one in entities}
    right = len(found & gold)
    expected = {"precision": right / len(found), "recall": right / len(gold), "f1": 2 * right / (len(found) + len(gold))}
    figures = dict(cell.split(": ") for cell in printed[0].split(", "))
    assert {name: figures[name] for name in expected} == {name: f"{value:.5f}" for name, value in expected.items()}
    assert 0.5 < expected["precision"] < 1 and printed[-1].split()[-2:] == [str(len(gold)), str(len(found))]
    # The same from json lines, and from standard input.
    as_json = write(
        tmp_path / "gold.jsonl",
        *({"text": text, "entities": [[start, end, kind] for kind, start, end in some]} for text, some in rows),
    )
    assert predict(model_dir=model, input_file=as_json, evaluate=True).splitlines() == printed
    assert predict(model_dir=model, stdin=path.read_text(encoding="utf-8"), evaluate=True).splitlines() == printed


# Texts


def test_a_long_text_to_its_last_line(model, predict, tmp_path):
    """2,000 characters, as one text with line breaks in it, and as one line; a text of one character beside it."""
    middle = "".join(text + "。" for text in SENTENCES[200:330])[:1980]
    middle = middle[:700] + "敦煌" + middle[702:1400] + "鲁紫" + middle[1402:]
    for inserted in ("", "\n"):
        text = middle + inserted + "最后一行说的是诸葛曹"
        assert len(text) >= 1990
        path = write(tmp_path / "long.jsonl", {"text": text}, {"text": "敦"}, {"text": text[-10:]})
        found = from_json(predict(model_dir=model, input_file=path, output_format="jsonl"))
        assert found[0]["text"] == text
        assert set(triples(found[0])) >= set(names_in(text)) and len(names_in(text)) == 3
        assert triples(found[0])[-1] == ("PER", len(text) - 3, len(text))
        assert len(set(triples(found[0]))) == len(triples(found[0]))
        assert triples(found[2]) == [("PER", 7, 10)]


@pytest.mark.parametrize(("head", "input_format"), [*((head, "text") for head in HEADS), ("crf", "jsonl")])
def test_places_are_exact_in_strange_texts(head, input_format, entity_model, predict, tmp_path):
    """Places count characters of the text as it came in; what is around a name does not hide it."""
    lines = STRANGE if input_format == "text" else [{"text": text} for text in STRANGE]
    path = write(tmp_path / "strange", *lines)
    flags = {"model_dir": entity_model(head), "input_file": path, "input_format": input_format}
    found = from_json(predict(**flags, output_format="jsonl"))
    assert [line["text"] for line in found] == STRANGE
    for text, line in zip(STRANGE, found, strict=True):
        assert all(text[one["start"] : one["end"]] == one["text"] for one in line["entities"])
        assert set(triples(line)) >= set(names_in(text)), text
    table = from_tsv(predict(**flags))
    assert [(number, *one) for number, line in enumerate(found, 1) for one in triples(line)] == [
        (number, kind, start, end) for number, kind, _, start, end, _ in table
    ]


def test_a_line_of_the_table_is_a_line(entity_model, predict, tmp_path, monkeypatch):
    """Though the text of an entity has a line break or a TAB in it; here every text is one."""

    def all_of_it(model, samples, *args, **kwargs):
        spans = [[("LOC", 0, int(count))] for count in samples.unit_counts]
        return Findings(spans, [[0.5] for _ in spans], None, None)

    monkeypatch.setattr(prediction, "read_entities", all_of_it)
    texts = ["敦\t煌", "敦煌", "敦\n煌", "敦\r煌", "敦\r\n煌"]
    path, out = write(tmp_path / "texts.jsonl", *({"text": text} for text in texts)), tmp_path / "out.tsv"
    predict(model_dir=entity_model("linear"), input_file=path, output_file=out)
    lines = out.read_bytes().decode().removesuffix("\n").splitlines()
    cells = [line.split("\t") for line in lines]
    assert [(int(row[0]), int(row[3]), int(row[4])) for row in cells] == [
        (number, 0, len(text)) for number, text in enumerate(texts, 1)
    ]


def test_texts_keep_their_order(entity_model, predict, tmp_path):
    """1,000 of them, more than are read at a time."""
    assert 300 < prediction._BLOCK < 1000
    model = entity_model("linear")
    texts = [sentence(number % 300, *(list(NAMES)[: number % 4])) for number in range(1000)]
    texts[511] = texts[700] = ""
    path = write(tmp_path / "texts.txt", *texts)
    found = from_json(predict(model_dir=model, input_file=path, output_format="jsonl"))
    assert [line["text"] for line in found] == texts
    expected = [names_in(text) for text in texts]
    assert [triples(line) for line in found] == expected
    some = [*range(505, 520), *range(995, 1000)]
    part = write(tmp_path / "part.txt", *(texts[number] for number in some))
    alone = from_json(predict(model_dir=model, input_file=part, output_format="jsonl"))
    assert [triples(line) for line in alone] == [triples(found[number]) for number in some]


def test_windows_as_short_as_asked_for(entity_model, predict):
    """--max_seq_length and --doc_stride; the answer to a text of any length is of the same form."""
    model = entity_model("linear")
    text = "".join(sentence(number, "敦煌") for number in range(20))
    for length, shared in ((64, None), (30, 0), (8, 5)):
        printed = predict(model_dir=model, stdin=text, max_seq_length=length, doc_stride=shared)
        found = [(kind, start, end) for _, kind, _, start, end, _ in from_tsv(printed)]
        assert found == sorted(found, key=lambda one: one[1])
        assert len(set(found) & set(names_in(text))) >= 15


# Rows that cannot be used


def test_a_bad_line_keeps_its_place(entity_model, predict, monkeypatch, capsys, tmp_path):
    model = entity_model("linear")
    lines = [{"text": PLAIN[0]}, "no json", {"text": 5}, {"txt": "电影"}, "", {"text": PLAIN[3]}]
    path = write(tmp_path / "texts.jsonl", *lines)
    found = from_json(predict(model_dir=model, input_file=path, output_format="jsonl", bad_rows="skip"))
    nothing = {"text": None, "entities": None}
    assert found[1:5] == [nothing] * 4
    assert [triples(found[0]), triples(found[-1])] == [names_in(PLAIN[0]), names_in(PLAIN[3])]
    assert len(found) == 6
    table = from_tsv(predict(model_dir=model, input_file=path, bad_rows="skip"))
    assert {line for line, *_ in table} == {1, 6}
    assert call("predict.py", as_flags(model_dir=model, input_file=path, device="cpu"), monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"{path}:2: not JSON" in error and "3 bad rows" in error and "Traceback" not in error


# Colour, readings, confidence


def test_colours(entity_model, predict):
    """Nothing is changed but for the escapes, and the type behind each entity; one colour a type."""
    printed = predict(model_dir=entity_model("crf"), stdin="\n".join([*PLAIN, STRANGE[5]]), color=True)
    escape = re.compile(r"\033\[30;(\d+)m(.*?)\033\[0;2m (\w+)\033\[0m")
    lines = printed.split("\n")[:-1]
    assert [escape.sub(r"\2", line) for line in lines] == [*PLAIN, STRANGE[5]]
    marked = [[(kind, text) for _, text, kind in escape.findall(line)] for line in lines]
    expected = [[(kind, text[start:end]) for kind, start, end in names_in(text)] for text in [*PLAIN, STRANGE[5]]]
    assert marked == expected
    colours = {(kind, number) for line in lines for number, _, kind in escape.findall(line)}
    assert len(colours) == len({number for _, number in colours}) == 3


def test_readings(entity_model, predict, tmp_path):
    """Of a CRF: the likeliest first, no more than there are, the first one the answer; with few tags all add up to 1."""
    model = entity_model("crf")
    path = write(tmp_path / "texts.txt", *PLAIN, "敦", "诸葛曹", STRANGE[4])
    plain = from_json(predict(model_dir=model, input_file=path, output_format="jsonl"))
    for count in (1, 12):
        found = from_json(predict(model_dir=model, input_file=path, output_format="jsonl", n_best=count))
        for line, before in zip(found, plain, strict=True):
            readings = line.pop("readings", [])
            assert line == before
            if not line["text"]:
                continue
            assert len(readings) == count or (len(line["text"]) == 1 and len(readings) < count)
            shares = [reading["probability"] for reading in readings]
            assert shares == sorted(shares, reverse=True)
            assert min(shares) >= 0 and sum(shares) <= 1 + 1e-5 * count
            assert triples(readings[0]) == triples(line)
            assert all(line["text"][one["start"] : one["end"]] == one["text"] for r in readings for one in r["entities"])
    signs = "".join(f"{sign}\n" for name in NAMES for sign in name)
    alone = from_json(predict(model_dir=model, stdin=signs, output_format="jsonl", n_best=40))
    of_one_sign = next(line for line in alone if line["entities"])
    assert sum(reading["probability"] for reading in of_one_sign["readings"]) == pytest.approx(1, abs=1e-4)
    # What begins an entity of one place there may also stand alone: its confidence is that of the tag it was read from.
    (entity,) = of_one_sign["entities"]
    assert entity["confidence"] == pytest.approx(of_one_sign["readings"][0]["probability"], abs=1e-5)


def test_confidences_lie_between_0_and_1(model, predict):
    """Also of what a model has never seen."""
    texts = ["".join(chr(0x4E00 + 37 * (place * place + row) % 20000) for place in range(40)) for row in range(8)] + STRANGE
    lines = from_json(predict(model_dir=model, stdin="".join(f"{text}\n" for text in texts), output_format="jsonl"))
    shares = [one["confidence"] for line in lines for one in line["entities"]]
    assert shares and all(0 <= share <= 1 for share in shares)


# Token classifiers of transformers

WORDS = [
    "the cat 去了 Paris, and 3.5 dogs 我们看电影 ok",
    "一个小人 in a 大房间 said: 'no' 这里有人",
    "abc def 的一是不了在人有我他这中大来上",
    "电影（好）！123 456 x",
]
LABELS = ["B-PER", "O", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def their_model(tiny_model):
    id2label = dict(enumerate(LABELS))
    return tiny_model(
        "bert", "ForTokenClassification", id2label=id2label, label2id={name: key for key, name in id2label.items()}
    )


def their_tags(directory, words):
    """Of the first token of each word, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForTokenClassification.from_pretrained(directory).eval()
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        best = model(**encoded).logits[0].argmax(dim=1).tolist()
    places = encoded.word_ids()
    return [model.config.id2label[best[places.index(word)]] for word in range(len(words))]


def test_a_token_classifier_of_transformers(their_model, predict, tmp_path):
    """Plain texts are divided into words, lists are taken as they are; seqeval reads the tags."""
    lists = [re.findall(r"[一-龥]|[^\W一-龥]+|[^\w\s]", text) for text in WORDS]
    assert all("".join(words) == text.replace(" ", "") for words, text in zip(lists, WORDS, strict=True))
    path = write(tmp_path / "words.jsonl", *({"tokens": words} for words in lists))
    of_lists = from_json(predict(model_dir=their_model, input_file=path, output_format="jsonl"))
    of_texts = from_json(predict(model_dir=their_model, stdin="\n".join(WORDS), output_format="jsonl"))
    seen = 0
    for words, text, listed, plain in zip(lists, WORDS, of_lists, of_texts, strict=True):
        tags = their_tags(their_model, words)
        found = sorted((one.start, one.end, one.tag) for one in Entities([tags], IOB2).entities[0])
        seen += len(found)
        starts = [place for place in range(len(words))]
        at = 0
        for place, word in enumerate(words):
            starts[place] = at = text.index(word, at)
            at += len(word)
        expected = [(kind, starts[first], starts[last - 1] + len(words[last - 1])) for first, last, kind in found]
        assert triples(plain) == expected
        joined = [sum(map(len, words[:place])) + place for place in range(len(words))]
        assert listed["text"] == " ".join(words)
        assert triples(listed) == [
            (kind, joined[first], joined[last - 1] + len(words[last - 1])) for first, last, kind in found
        ]
    assert seen > 5


def test_figures_of_a_token_classifier(their_model, predict, tmp_path):
    """Strict scores of its tags against those of a column file."""
    words = [re.findall(r"[一-龥]|[^\W一-龥]+|[^\w\s]", text) for text in WORDS]
    tags = [their_tags(their_model, some) for some in words]
    gold = [["B-LOC" if place % 4 == 0 else tag for place, tag in enumerate(some)] for some in tags]
    lines = [
        f"{word} {tag}"
        for some, own in zip(words, gold, strict=True)
        for word, tag in [*zip(some, own, strict=True), ("", "")]
    ]
    path = write(tmp_path / "gold.txt", *(line.strip() for line in lines))
    printed = predict(model_dir=their_model, input_file=path, evaluate=True).splitlines()
    found = {(row, one.start, one.end, one.tag) for row, some in enumerate(Entities(tags, IOB2).entities) for one in some}
    # What follows nothing begins an entity, where a file is read.
    mended = [
        [
            f"B{tag[1:]}" if tag[0] == "I" and before[1:] != tag[1:] else tag
            for before, tag in zip(["O", *own], own, strict=False)
        ]
        for own in gold
    ]
    wanted = {(row, one.start, one.end, one.tag) for row, some in enumerate(Entities(mended, IOB2).entities) for one in some}
    figures = dict(cell.split(": ") for cell in printed[0].split(", "))
    assert "loss" not in figures
    right = len(found & wanted)
    assert 0 < right < len(found)
    assert figures["precision"] == f"{right / len(found):.5f}" and figures["recall"] == f"{right / len(wanted):.5f}"


def test_labels_that_are_no_tags(tiny_model, refused):
    directory = tiny_model("bert", "ForTokenClassification", num_labels=3)
    assert "config.json: 'LABEL_0' is not a tag such as B-PER" in refused(model_dir=directory, stdin="电影")


# Processes


def test_two_processes_write_the_same(entity_model, predict, tmp_path):
    """The answers and the figures, to the last digit."""
    model = entity_model("crf")
    rows = [(number, sentence(number % 290, *(list(NAMES)[: number % 4]))) for number in range(600)]
    lines = (
        {"text": text, "entities": [[a, b, kind] for kind, a, b in names_in(text)[number % 5 == 0 :]]}
        for number, text in rows
    )
    path = write(tmp_path / "gold.jsonl", *lines)
    flags = {"model_dir": model, "input_file": path, "evaluate": True, "batch_size": 16}
    printed = predict(**flags, output_file=tmp_path / "one.jsonl")
    done = run("predict.py", as_flags(**flags, output_file=tmp_path / "two.jsonl", device="cpu"), processes=2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert done.stdout == printed
    assert len(from_json((tmp_path / "one.jsonl").read_text(encoding="utf-8"))) == 600


# Mistakes

MISTAKES = {
    "readings without a CRF": ("linear", {"n_best": 3, "output_format": "jsonl"}, "--n_best 3: {model} has no CRF"),
    "readings of spans": ("global_pointer", {"n_best": 3, "output_format": "jsonl"}, "--n_best 3: {model} has no CRF"),
    "readings in a table": ("crf", {"n_best": 3}, "--n_best 3: n-best answers are written as json lines"),
    "less than none": ("crf", {"n_best": -1}, "--n_best: must not be negative"),
    "colours for a file": ("crf", {"color": True, "output_file": "out.txt"}, "--color is for the terminal"),
    "pairs": ("linear", {"is_text_pair": True}, "--is_text_pair and --corpus are not for entities"),
    "columns by name": ("linear", {"columns": "text,label"}, "are not for entities"),
    "a table of rows": (
        "linear",
        {"input_format": "tsv"},
        "--input_format tsv: for entities use one of text, columns, jsonl",
    ),
    "nothing": ("linear", {"stdin": ""}, "<stdin>: no texts in it"),
    "blank lines alone": ("linear", {"stdin": "\n \n\t\n"}, "<stdin>: no texts in it"),
    "no file": ("linear", {"input_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "not UTF-8": ("linear", {"input_file": "latin.txt"}, "latin.txt:2: not UTF-8"),
    "windows that share all": ("linear", {"max_seq_length": 20, "doc_stride": 18}, "--doc_stride 18"),
    "longer than the model": ("linear", {"max_seq_length": 513}, "has positions for 512 tokens"),
}


@pytest.mark.parametrize(("head", "flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(head, flags, message, entity_model, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"abc\n" + "\u00e9t\u00e9\n".encode("latin-1"))
    model = entity_model(head)
    assert message.format(model=model) in refused(**{"model_dir": model, "stdin": "电影", **flags})
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_has_lost_its_crf(entity_model, refused, tmp_path):
    """And one that says it has other types than its weights."""
    directory = shutil.copytree(entity_model("linear"), tmp_path / "copy")
    description = json.loads((directory / "bertorch.json").read_text())
    (directory / "bertorch.json").write_text(json.dumps({**description, "ner_head": "crf"}))
    assert "crf.transitions" in refused(model_dir=directory, stdin="电影")
    (directory / "bertorch.json").write_text(json.dumps({**description, "labels": ["O", "B-PER", "I-PER"]}))
    assert "labels are not the tags of its types" in refused(model_dir=directory, stdin="电影")
