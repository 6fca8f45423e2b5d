"""--max_part_lengths trains on what is left of the parts, and predict.py reads no more of them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bertorch import load_predictor
from tests.scripts.launch import as_flags, call

TEXTS = ("房间干净很好喜欢", "服务员不好早餐贵", "酒店便宜推荐", "电影书质量差价格贵")
ROWS = {
    "run_classifier.py": [(text, str(number % 2)) for number, text in enumerate(TEXTS)],
    "run_sentencebert.py": [(text, TEXTS[number - 1], str(number % 2)) for number, text in enumerate(TEXTS)],
    "run_simcse.py": [(text,) for text in TEXTS],
    "run_batchneg.py": [(text, TEXTS[number - 1]) for number, text in enumerate(TEXTS)],
}


@pytest.mark.parametrize("script", ROWS)
def test_it_trains_on_cut_texts(script, tiny_model, tmp_path, monkeypatch):
    saved = {}
    for name, length in (("limited", None), ("cut before", 3)):
        path = tmp_path / f"{name}.tsv"
        cut = [[cell if cell.isdigit() else cell[:length] for cell in row] for row in ROWS[script]]
        path.write_text("".join("\t".join(row) + "\n" for row in cut), encoding="utf-8")
        flags = as_flags(
            pretrained_model_name_or_path=tiny_model("bert"), train_data_file=path, saved_dir=tmp_path / name, max_steps=1,
            learning_rate=1e-2, device="cpu", max_seq_length=32, seed=1,
        )  # fmt: skip
        assert call(script, [*flags, *(["--max_part_lengths", "3"] if name == "limited" else [])], monkeypatch) == 0
        saved[name] = load_file(tmp_path / name / "model.safetensors")
    assert all(torch.equal(tensor, saved["cut before"][name]) for name, tensor in saved["limited"].items())
    assert json.loads((tmp_path / "limited" / "bertorch.json").read_text())["max_part_lengths"] == [3]
    assert "max_part_lengths" not in json.loads((tmp_path / "cut before" / "bertorch.json").read_text())
    tokenizer = load_predictor(tmp_path / "limited", device="cpu").tokenizer
    assert len(tokenizer.encode([(TEXTS[0],)])[0][0]) == 5


def test_what_is_no_number_is_refused(tmp_path, monkeypatch, capsys):
    flags = as_flags(train_data_file=tmp_path / "rows.tsv", max_part_lengths="50,none")
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert "--max_part_lengths" in capsys.readouterr().err
