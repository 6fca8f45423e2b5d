"""Starting the processes of a run."""

import argparse

import pytest
import torch
import torch.distributed as dist

from bertorch.training.process_group import start_processes


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", (("gloo",), {})), ("cuda", (("cpu:gloo,cuda:nccl",), {"device_id": torch.device("cuda", 1)}))],
)
def test_nccl_connects_at_the_start_to_the_gpu_of_its_process(monkeypatch, device, expected):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("bertorch.training.process_group.set_up_logging", lambda is_main: None)
    called = []
    monkeypatch.setattr(dist, "init_process_group", lambda *given, **named: called.append((given, named)))
    processes = start_processes(argparse.Namespace(device=device, precision="fp32"))
    assert called == [expected]
    assert processes.device == torch.device(device, 1 if device == "cuda" else None)


@pytest.mark.parametrize(
    ("device", "capability", "asked", "expected"),
    [
        ("cpu", None, "auto", "fp32"), ("cpu", None, "bf16", "bf16"), ("cuda", (9, 0), "auto", "bf16"),
        ("cuda", (8, 0), "auto", "bf16"), ("cuda", (7, 5), "auto", "fp32"), ("cuda", (9, 0), "fp32", "fp32"),
        ("cuda", (7, 5), "fp16", "fp16"),
    ],
)  # fmt: skip
def test_the_precision_that_suits_the_device(monkeypatch, messages, device, capability, asked, expected):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("bertorch.training.process_group.set_up_logging", lambda is_main: None)
    multiplied = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", multiplied.append)
    args = argparse.Namespace(device=device, precision=asked)
    start_processes(args)
    assert args.precision == expected
    chosen = device == "cuda" and asked == "auto"
    assert multiplied == (["high"] if chosen and expected == "fp32" else [])
    assert [
        f"--precision auto: {expected}" in line for line in messages if "--precision" in line and "no instr" not in line
    ] == ([True] if chosen else [])
