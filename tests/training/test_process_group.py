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
