"""Saving beside the training: what was true at the save is written, in order, and nothing is cut short or said too early."""

import argparse
import threading
import time

import pytest
import torch
from torch import nn

from bertorch.errors import UserError
from bertorch.reporting.runs import latest_state
from bertorch.training import saving
from bertorch.training.checkpoints import load_state, save_state
from bertorch.training.lock import LOCK
from bertorch.training.saving import SavingTimes, finish_writing, is_writing, raise_failure, wait_for, write_later
from bertorch.training.seeds import for_each_seed


@pytest.fixture
def gate():
    """The thread waits here until it is set."""
    gate = threading.Event()
    yield gate
    gate.set()
    finish_writing()


# The thread


def test_the_state_is_that_of_the_save_whatever_the_training_does_next(tmp_path, gate):
    model, tensors = nn.Linear(2, 3), {"optimizer": {"state": [torch.ones(2)]}, "averages": None}
    expected = model.weight.detach().clone()
    write_later("before", gate.wait)
    save_state(tmp_path, 7, model, tensors, {"global_step": 7}, later=True)
    with torch.no_grad():
        model.weight.zero_()
        tensors["optimizer"]["state"][0].zero_()
    assert latest_state(tmp_path) is None and is_writing()
    gate.set()
    finish_writing()
    found, state = load_state(latest_state(tmp_path), model)
    assert torch.equal(model.weight, expected) and state == {"global_step": 7}
    assert torch.equal(found["optimizer"]["state"][0], torch.ones(2)) and found["averages"] is None


def test_two_saves_never_overlap_and_keep_their_order(gate):
    seen = []

    def job(name):
        def write():
            seen.append(f"{name} begins")
            time.sleep(0.01)
            seen.append(f"{name} ends")

        return write

    for name in ("model", "state", "model", "state"):
        write_later(name, job(name))
    finish_writing()
    assert seen == ["model begins", "model ends", "state begins", "state ends"] * 2
    assert not is_writing()


def test_there_is_never_more_than_one_copy_of_a_kind(gate):
    write_later("state", gate.wait)
    waited = threading.Event()

    def next_save():
        wait_for("state")
        waited.set()

    other = threading.Thread(target=next_save)
    other.start()
    assert not waited.wait(0.1)
    gate.set()
    other.join()
    assert waited.is_set()


def test_a_failure_is_raised_once_where_the_run_looks(gate):
    def fails():
        raise UserError("no room")

    wrote = []
    write_later("model", gate.wait)
    write_later("state", fails)
    raise_failure()  # nothing has failed yet
    gate.set()
    while is_writing():
        time.sleep(0.001)
    with pytest.raises(UserError, match="no room"):
        raise_failure()
    raise_failure()
    write_later("state", lambda: wrote.append(1))
    finish_writing()
    assert wrote == [1]
    write_later("state", fails)
    with pytest.raises(UserError, match="no room"):
        finish_writing()
    write_later("state", fails)
    with pytest.raises(UserError, match="no room"):
        write_later("state", lambda: None)


def seeds_arguments(directory):
    return argparse.Namespace(saved_dir=str(directory), seeds=None, device="cpu", precision="fp32")


@pytest.mark.parametrize("error", [None, UserError("a mistake"), SystemExit(3)])
def test_the_lock_is_kept_until_all_is_written(tmp_path, error, monkeypatch):
    monkeypatch.setattr("bertorch.training.seeds.report_finished", lambda *_: None)
    seen = []

    def train(args):
        write_later("state", lambda: (time.sleep(0.1), seen.append((tmp_path / "out" / LOCK).exists())))
        if error is not None:
            raise error

    if error is None:
        for_each_seed(seeds_arguments(tmp_path / "out"), train)
    else:
        with pytest.raises(type(error)):
            for_each_seed(seeds_arguments(tmp_path / "out"), train)
    assert seen == [True]
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_second_interrupt_waits_for_nothing_and_keeps_the_lock(tmp_path, gate):
    def train(args):
        write_later("state", gate.wait)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_seed(seeds_arguments(tmp_path / "out"), train)
    assert is_writing()
    assert (tmp_path / "out" / LOCK).exists()


# When


@pytest.fixture
def clock(monkeypatch):
    """``clock.now`` seconds."""
    clock = argparse.Namespace(now=100.0)
    monkeypatch.setattr(saving.time, "perf_counter", lambda: clock.now)
    return clock


def saves(times, clock, updates, seconds_an_update, seconds_a_save):
    """The updates that are saved, and the share of the time that this takes."""
    saved, began = [], clock.now
    for step in range(1, updates + 1):
        clock.now += seconds_an_update
        if times.counted(step) or times.timed(step):
            started = clock.now
            clock.now += seconds_a_save
            times.saved(started)
            saved.append(step)
    return saved, len(saved) * seconds_a_save / (clock.now - began)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_steps_that_are_asked_for_are_kept(clock, on_gpu):
    found, _ = saves(SavingTimes(7, None, on_gpu), clock, 50, 0.01, 60.0)
    assert found == [7, 14, 21, 28, 35, 42, 49]


def test_the_default_on_a_cpu_is_every_hundred_updates(clock):
    assert saves(SavingTimes(None, None, False), clock, 350, 1.0, 60.0)[0] == [100, 200, 300]


@pytest.mark.parametrize(("seconds_an_update", "seconds_a_save"), [(0.01, 0.5), (0.01, 3.0), (0.1, 0.2), (0.002, 1.7)])
def test_the_default_on_a_gpu_keeps_saving_under_five_percent(clock, seconds_an_update, seconds_a_save):
    updates = 60_000
    found, share = saves(SavingTimes(None, None, True), clock, updates, seconds_an_update, seconds_a_save)
    assert found[0] == 100 and all(step % 100 == 0 for step in found)
    assert share < 0.055  # the first one is made before its cost is known
    # Nor more rarely than that: without rounding to hundreds there would be a save every 19 times its seconds.
    apart = max(100, 19 * seconds_a_save / seconds_an_update)
    assert len(found) >= updates / (apart + 101) - 1


def test_on_a_gpu_no_save_is_asked_for_while_one_is_being_written(clock, gate):
    times = SavingTimes(None, None, True)
    write_later("state", gate.wait)
    assert not times.timed(100)
    gate.set()
    finish_writing()
    assert times.timed(100)


def test_seconds_between_saves(clock):
    assert saves(SavingTimes(None, 10.0, False), clock, 100, 1.0, 2.0)[0] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert saves(SavingTimes(None, 10.0, True), clock, 25, 1.0, 2.0)[0] == [10, 20]
    assert saves(SavingTimes(8, 10.0, False), clock, 30, 1.0, 0.0)[0] == [8, 16, 24]
    assert saves(SavingTimes(16, 10.0, False), clock, 40, 1.0, 0.0)[0] == [10, 16, 26, 32]
