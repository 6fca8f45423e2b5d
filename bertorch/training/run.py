"""Run: the bookkeeping of one training run. The loop itself is in the script."""

import argparse
import contextlib
import json
import math
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase

from bertorch.data.batching import MovableBatch, collate, epoch_plan
from bertorch.data.tokenizing import Samples
from bertorch.errors import Interrupted, UserError
from bertorch.heads.loss import Loss
from bertorch.memory import give_back_memory, keep_freed_memory, peak_memory_mb
from bertorch.reporting.readable import with_texts
from bertorch.reporting.runs import DATA_REPORT, latest_state
from bertorch.training.checkpoints import (
    load_state,
    prepare_saved_dir,
    save_model,
    save_state,
    starts_from_itself,
    write_json,
)
from bertorch.training.evaluation import Evaluation
from bertorch.training.logging import Journal, progress_bar, shown, step_line
from bertorch.training.optimizer import make_optimizer, scale_and_clip
from bertorch.training.process_group import Processes, in_bf16
from bertorch.training.processor import Crowding
from bertorch.training.saving import SavingTimes, finish_writing, raise_failure
from bertorch.training.schedules import learning_rate
from bertorch.training.tricks import average, freeze

_TRIM_STEPS = 50  # on a CPU, updates between returns of freed memory to the system; without them it grows for hours
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A resumed run must have the same values as the interrupted one, or its batches would differ.
_SAME_ON_RESUME = ("batch_size", "gradient_accumulation_steps", "seed", "group_by_length", "world_size", "labels", "data")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Compute in ``bf16`` or ``fp16`` where torch considers it safe; with ``fp32``, do nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_PRECISIONS[precision])


class Description(Protocol):
    """The task's description, saved with the model's weights (see ``tasks/description.py``)."""

    original_figures: dict[str, tuple[str, int]]

    def to_json(self) -> dict[str, Any]: ...


@dataclass
class _SinceLogged:
    """Sums since the last log line."""

    total: Any = 0.0
    count: int = 0
    correct: Any = None
    started: float = 0.0
    paused: float = 0.0
    steps: int = 0


class Run:
    """One training run.

    The loop that uses it::

        for batch in run.batches():            # every batch of every epoch, on the device; resumes where it stopped
            with run.autocast():               # --precision
                loss = run.model(batch)        # through DDP if there are several processes
            run.backward(loss)                 # may be called more than once per batch (adversarial steps)
            run.step()                         # clip, update, schedule, count, log; no update while accumulating
            if run.evaluation_due:             # with --ema_decay, the model has averaged weights until record()
                run.record(evaluate(...))      # an Evaluation
            if run.saving_due:
                run.save()

    ``train_step`` contains the lines before ``run.evaluation_due``, and the tricks.

    If the loss or the weights are not finite, the run ends with a UserError before saving them.

    Gradients are those of the mean loss over all ranks and all accumulated batches of an update, whatever their sizes.

    Args:
        args: the parsed flags.
        model: a head, on its device.
        samples: the training set.
        processes: this process and its place among the others.
        tokenizer: saved with the model.
        description: the task's, for ``bertorch.json``.
        collate: makes a batch from some rows of ``samples``.
        rates: name of a part of the model -> its own highest learning rate.
        data_report: statistics of the data sets, kept in ``saved_dir`` for the run's report.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        samples: Samples,
        processes: Processes,
        tokenizer: PreTrainedTokenizerBase,
        description: Description,
        collate: Callable[[Samples, np.ndarray], MovableBatch] = collate,
        rates: dict[str, float] | None = None,
        data_report: dict[str, Any] | None = None,
    ):
        if len(samples) < processes.world_size:
            files = [args.train_data_file] if isinstance(args.train_data_file, str) else args.train_data_file
            raise UserError(f"{', '.join(files)}: {len(samples)} rows for {processes.world_size} processes; start fewer")
        self.args, self.bare_model, self.samples, self.processes = args, model, samples, processes
        self.tokenizer, self.description, self.collate = tokenizer, description.to_json(), collate
        self._originals = description.original_figures
        self.directory = Path(args.saved_dir)

        if args.dropout is not None:
            model.encoder.set_dropout(args.dropout)
        freeze(model.encoder, args.freeze_embeddings, args.freeze_layers)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise UserError(f"--freeze_layers {args.freeze_layers} leaves nothing to train; freeze fewer")
        self.optimizer = make_optimizer(
            args.optimizer, model, args.learning_rate, args.weight_decay, rates, args.layer_decay,
            epsilon=args.adam_epsilon, betas=args.adam_betas,
        )  # fmt: skip
        self.weights = [parameter.data for parameter in self.parameters]  # what is trained
        self.averages = [weight.clone() for weight in self.weights] if args.ema_decay else None
        on_gpu = processes.device.type == "cuda"
        self._saving_times = SavingTimes(args.save_steps, args.save_seconds, on_gpu)
        self._in_background = on_gpu if args.save_in_background is None else args.save_in_background
        self.scaler = torch.amp.GradScaler(enabled=args.precision == "fp16")
        self.accumulation = args.gradient_accumulation_steps
        steps_an_epoch = math.ceil(len(self._plan(0)) / self.accumulation)
        self.total_steps = args.max_steps or args.epochs * steps_an_epoch
        self.epochs = math.ceil(self.total_steps / steps_an_epoch)
        warmup_steps = args.warmup_steps
        self.warmup_steps = math.ceil(args.warmup_proportion * self.total_steps) if warmup_steps is None else warmup_steps

        self.global_step = 0
        self.epoch = 0  # of the current batch, from 0
        self.batch = 0  # batches taken from this epoch
        self.best_score: float | None = None
        self.evaluations_without_best = 0
        self.metrics: dict[str, float] = {}
        self.kept: dict[str, Any] = {}  # ``keep`` of the last evaluation, saved with the model
        self.evaluation: dict[str, Any] | None = None  # of the saved model, with its details
        self.evaluation_due = self.saving_due = False
        self._improved = self._finished = self._update_due = False
        self._gradient_count = 0  # terms in the losses of this update, on this rank
        self._batch_count = 0
        self._signal: int | None = None  # the signal that this process received
        self._stopping: int | None = None  # the signal that all processes stop for
        self.command = shlex.join(sys.argv)  # no flag takes a secret
        self.started = datetime.now().astimezone().isoformat(" ", "seconds")
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._resumed = self._resume_or_start()
        patience = args.early_stopping_patience
        stopped = patience is not None and self.evaluations_without_best >= patience
        self._finished = self.global_step >= self.total_steps or stopped
        if self._resumed and self._finished:
            how, longer = "is finished", "--epochs or --max_steps"
            if stopped:
                how, longer = "has stopped early", "--early_stopping_patience"
            logger.info(f"{self.directory}: this run {how}, at global step {self.global_step}; raise {longer} to continue")
        self.journal = Journal(self.directory, args.tensorboard and processes.is_main)
        if self._resumed and processes.is_main:
            self.journal.forget_after(self.global_step)
        if data_report is not None and processes.is_main:
            write_json(self.directory / DATA_REPORT, data_report)

        if processes.device.type == "cpu":
            keep_freed_memory()
        on_cpu = processes.is_main and processes.device.type == "cpu"
        self._crowding = Crowding(torch.get_num_threads()) if on_cpu else None
        model.encoder.gradient_checkpointing = args.gradient_checkpointing
        if args.compile:
            model.encoder.compile(dynamic=True)
        self.model = model
        if processes.world_size > 1:
            # Not static_graph: with a loss that is not a tensor, torch 2.6 to 2.13 would never exchange gradients.
            self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
            if args.ddp_compression == "bf16":
                self.model.register_comm_hook(None, in_bf16)
            # Buffers are the same constants everywhere. Every torch version has this attribute; 2.13 renamed the argument.
            self.model.broadcast_buffers = False

    def _plan(self, epoch: int) -> list[np.ndarray]:
        args, processes = self.args, self.processes
        return epoch_plan(
            self.samples.row_lengths, args.batch_size, processes.world_size, processes.rank, args.seed, epoch,
            args.group_by_length,
        )  # fmt: skip

    def batches(self) -> Iterator[MovableBatch]:
        """Every batch from the current position to the end of the run.

        Raises:
            Interrupted: SIGTERM or Ctrl-C was received, and the state is saved.
        """
        handlers = {number: signal.signal(number, self._note_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        bar = progress_bar(self.total_steps, self.global_step) if self.processes.is_main else None
        device = self.processes.device
        self.bare_model.train()
        self._logged = _SinceLogged(started=time.perf_counter())
        try:
            while not self._finished:
                plan = self._plan(self.epoch)
                while self.batch < len(plan) and not self._finished:
                    self.batch += 1
                    self._update_due = self.batch % self.accumulation == 0 or self.batch == len(plan)
                    if self.processes.world_size > 1:  # exchange gradients once per update, as with DDP's no_sync()
                        self.model.require_backward_grad_sync = self._update_due
                    rows = plan[self.batch - 1]
                    batch = self.collate(self.samples, rows)
                    try:
                        yield batch.to(device)
                    finally:  # in case an evaluation failed or was not recorded
                        self._put_in(self.weights)
                    if bar is not None and self._update_due:
                        bar.update(self.global_step - bar.n)
                    if self._update_due and self._stopping is not None:
                        finish_writing()
                        raise Interrupted(
                            self._stopping,
                            f"stopped by {signal.Signals(self._stopping).name} at global step {self.global_step}; "
                            f"the state is saved, --resume continues from there",
                        )
                if not self._finished:
                    self.epoch, self.batch = self.epoch + 1, 0
            finish_writing()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if bar is not None:
                bar.close()

    def _note_signal(self, number: int, frame: object) -> None:
        if self._signal is not None:  # the second signal: do not wait for the end of the step
            raise KeyboardInterrupt("the last saved state is kept")
        self._signal = number
        if self.processes.is_main:  # not through the logger, which the signal may have interrupted
            os.write(2, f"{signal.Signals(number).name}: stopping after this step; once more stops at once\n".encode())

    def autocast(self) -> contextlib.AbstractContextManager:
        return autocast(self.processes.device, self.args.precision)

    def backward(self, loss: Loss) -> None:
        """Add the gradient of this loss to that of the update.

        If called twice for a batch, the gradients add up, but the batch counts once.
        """
        loss.logits = None  # r_drop is done with them; free them before the next step's
        # A constant known to all ranks keeps the values close to the mean; step() makes the division exact.
        self.scaler.scale(loss.total / self._nominal_count).backward()
        self._batch_count = loss.count
        since = self._logged
        since.total = since.total + loss.total.detach().double()
        since.count += loss.count
        if loss.correct is not None:
            since.correct = loss.correct + (0 if since.correct is None else since.correct)

    @property
    def _nominal_count(self) -> int:
        return self.args.batch_size * self.accumulation

    def step(self) -> None:
        """Update the weights, unless accumulation continues."""
        self.evaluation_due = self.saving_due = self._improved = False
        self._gradient_count += self._batch_count
        if not self._update_due:
            return
        raise_failure()  # of the thread that writes
        # One exchange per update: the number of terms, whether a rank was asked to stop, whether a loss is not finite, and
        # whether the main process's clock asks to save.
        asks = self.processes.is_main and self._saving_times.timed(self.global_step + 1)
        count, stop, lost, timed = self.processes.sum(
            [self._gradient_count, float(self._signal or 0), float(self._loss_is_lost()), float(asks)]
        )
        if lost:  # before the weights are lost too
            raise UserError(self._lost(self.global_step + 1, "the loss is not a finite number"))
        if stop:  # a signal that comes later, during evaluation or saving, waits for the next update
            self._stopping = self._signal or signal.SIGTERM
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.args.scheduler, group["highest"], self.global_step, self.warmup_steps, self.total_steps
            )
        self.scaler.unscale_(self.optimizer)
        # DDP averages over ranks, but the gradients must be summed over ranks and divided by the count.
        scale_and_clip(self.parameters, self.processes.world_size * self._nominal_count / count, self.args.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._gradient_count = 0
        self.global_step += 1
        if self.averages is not None:
            average(self.averages, self.weights, self.args.ema_decay, self.global_step)
        if self.processes.device.type == "cpu" and self.global_step % _TRIM_STEPS == 0:
            give_back_memory()
        self._logged.steps += 1
        self._finished = self.global_step >= self.total_steps
        if self.global_step % self.args.logging_steps == 0 or self._finished:
            self._log()
        args = self.args
        self.evaluation_due = args.dev_data_file is not None and self._due(args.eval_steps)
        self._step_ended = time.perf_counter()
        counted = self._saving_times.counted(self.global_step)
        self.saving_due = counted or bool(timed) or self._finished or self._stopping is not None
        if (self.evaluation_due or self.saving_due) and not all_finite(self.parameters):
            raise UserError(self._lost(self.global_step, "the update left weights that are not finite numbers"))
        if self.evaluation_due:
            self._put_in(self.averages)

    @property
    def _seconds(self) -> float:
        """Duration of the run so far, including the parts before it was resumed."""
        return round(self._seconds_before + time.perf_counter() - self._began, 1)

    def _due(self, every: int) -> bool:
        return self.global_step % every == 0 or self._finished

    def _loss_is_lost(self) -> bool:
        """Whether this rank's loss is NaN or infinite; on a GPU, checked once per log line, because checking waits."""
        if self.processes.device.type == "cuda" and (self.global_step + 1) % self.args.logging_steps:
            return False
        if math.isfinite(float(self._logged.total)):
            return False
        return not self.scaler.is_enabled() or self.scaler.get_scale() < 1  # fp16 skips single updates by itself

    def _lost(self, step: int, what: str) -> str:
        """The error message for a run that cannot continue."""
        before = f" or one of the {self.args.logging_steps} before" if self.processes.device.type == "cuda" else ""
        finish_writing()
        state = latest_state(self.directory)
        kept = f"go on from {state} with --resume" if state else "nothing was saved yet; start again with --overwrite"
        return (
            f"global step {step}{before} (epoch {self.epoch + 1}, batch {self.batch}): {what}; {kept}, and a lower "
            f"--learning_rate or a longer --warmup_proportion"
        )

    def _log(self) -> None:
        since, now = self._logged, time.perf_counter()
        has_correct = since.correct is not None
        total, count, correct = self.processes.sum(
            [float(since.total), float(since.count), float(since.correct) if has_correct else 0.0]
        )
        speed = since.steps / max(now - since.started - since.paused, 1e-9)
        figures = {"epoch": self.epoch + 1, "batch": self.batch, "loss": total / count}
        if has_correct:
            figures["accuracy"] = correct / count
        logger.info(step_line(self.global_step, figures, speed, self.total_steps))
        if self._crowding is not None:
            self._crowding.report()
        if self.processes.is_main:
            rate = self.optimizer.param_groups[0]["lr"]
            memory = peak_memory_mb(self.processes.device)
            more = {"learning_rate": rate, "steps_per_second": speed, "peak_memory_mb": memory, "seconds": self._seconds}
            self.journal.write("train", self.global_step, {**figures, **more})
        self._logged = _SinceLogged(started=now)

    def _put_in(self, weights: list[Tensor] | None) -> None:
        """Put ``self.averages`` (to evaluate or save) or ``self.weights`` (to train) into the model."""
        if self.averages is not None:  # without averages, the model always has its weights
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.data = weight

    def record(self, evaluation: Evaluation) -> None:
        """Log an evaluation, remember whether it is the best, and count towards early stopping."""
        metrics = evaluation.metrics
        score = metrics[self.args.metric]
        score = -math.inf if math.isnan(score) else score
        self._improved = self.best_score is None or score > self.best_score
        self.best_score = score if self._improved else self.best_score
        self.evaluations_without_best = 0 if self._improved else self.evaluations_without_best + 1
        self.metrics, self.kept = metrics, evaluation.keep
        if self.processes.is_main and (self._improved or not self.args.save_best_model):
            self.evaluation = {"global_step": self.global_step, "metrics": metrics, **self._made(evaluation.details)}
        self.report("eval", metrics, " (best so far)" if self._improved else "")
        patience = self.args.early_stopping_patience
        if patience is not None and self.evaluations_without_best >= patience and not self._finished:
            logger.info(f"no better {self.args.metric} in {patience} evaluations; stopping early")
            self._finished = True
        if self.args.save_best_model and self._improved:
            self._save_model()
        self.saving_due = self.saving_due or self._finished
        self._put_in(self.weights)
        self.bare_model.train()
        self._logged.paused += time.perf_counter() - self._step_ended  # the logged speed is that of training

    def _made(self, details: Callable[[], dict[str, Any]] | None) -> dict[str, Any]:
        try:
            made = with_texts(details(), self.tokenizer) if details is not None else {}
            json.dumps(made, ensure_ascii=False).encode()  # unwritable details must not stop the saving of a model
            return made
        except Exception as error:  # whatever the error, the training is worth more than its report
            logger.warning(f"the report will lack the details of this evaluation ({type(error).__name__}: {error})")
            return {}

    def report(self, kind: str, metrics: dict[str, float], remark: str = "") -> None:
        """Log the metrics of this step, and write them to the journal; ``kind`` is ``eval`` or ``test``."""
        logger.info(f"{kind} {shown(metrics, self._originals)}{remark}")
        if self.processes.is_main:
            self.journal.write(kind, self.global_step, metrics)

    def _save_model(self) -> None:
        if self.processes.is_main:
            description = {
                **self.description,
                **self.kept,
                "global_step": self.global_step,
                "metrics": self.metrics,
                "arguments": vars(self.args),
                "command": self.command,
                "started": self.started,
            }

            def written(step: int = self.global_step) -> None:
                logger.info(f"saved the model of global step {step} in {self.directory}")

            self._put_in(self.averages)
            try:
                save_model(
                    self.directory, self.bare_model, self.tokenizer, description, self.evaluation, self._in_background,
                    written,
                )  # fmt: skip
            finally:
                self._put_in(self.weights)

    def save(self) -> None:
        """Write the training state, and the model unless ``--save_best_model`` is set or the run is being stopped."""
        paused = time.perf_counter()
        if not self.args.save_best_model and self._stopping is None:
            self._save_model()
        self._put_in(self.weights)
        generators = self.processes.gather(_random_states(self.processes.device))
        if self.processes.is_main:
            tensors = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "generators": generators,
                "averages": self.averages,
            }
            state = {
                "global_step": self.global_step,
                "epoch": self.epoch,
                "batch": self.batch,
                "best_score": self.best_score,
                "evaluations_without_best": self.evaluations_without_best,
                "metrics": self.metrics,
                "kept": self.kept,
                "finished": self._finished,
                "same_on_resume": self._identity,
                "arguments": vars(self.args),
                "command": self.command,
                "started": self.started,
                "seconds": self._seconds,
            }
            save_state(self.directory, self.global_step, self.bare_model, tensors, state, self._in_background)
        self._saving_times.saved(paused)
        self._logged.paused += time.perf_counter() - paused

    @property
    def _identity(self) -> dict[str, Any]:
        args = self.args
        world_size, labels, data = self.processes.world_size, self.description.get("labels"), self.samples.fingerprint
        values = (args.batch_size, self.accumulation, args.seed, args.group_by_length, world_size, labels, data)
        return dict(zip(_SAME_ON_RESUME, values, strict=True))

    def _check_identity(self, path: Path, state: dict[str, Any]) -> None:
        for name, value in self._identity.items():
            before = state["same_on_resume"].get(name, value)
            if before == value:
                continue
            match name:
                case "data":
                    what = "the training data has changed"
                case "labels":
                    what = _change_of_labels(before, value)
                case _:
                    what = f"{name} was {before} and is {value}"
            raise UserError(f"{path}: cannot be resumed, {what}; use the old value, or start again with --overwrite")

    def _resume_or_start(self) -> bool:
        path = latest_state(self.directory) if self.args.resume else None
        # This also keeps ranks from looking for a state that the main process has already removed.
        if len(set(self.processes.gather(path and path.name))) > 1:
            raise UserError(f"--saved_dir {self.directory}: not all processes see the same state; use a shared file system")
        if path is None:
            if self.args.resume:
                logger.info(f"{self.directory}: no training state to resume; starting from scratch")
            if self.processes.is_main:
                prepare_saved_dir(self.directory, self.args.overwrite, starts_from_itself(self.args))
            return False
        tensors, state = load_state(path, self.bare_model, lambda state: self._check_identity(path, state))
        changed = [
            f"--{name} {before} -> {getattr(self.args, name)}"
            for name, before in state["arguments"].items()
            if name not in ("resume", "overwrite") and getattr(self.args, name, before) != before
        ]
        if changed:
            logger.warning(f"resuming with different flags: {', '.join(changed)}")
        highest = [group["highest"] for group in self.optimizer.param_groups]  # from the current flags
        self.optimizer.load_state_dict(tensors["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, highest, strict=True):
            group["highest"] = rate
        self.scaler.load_state_dict(tensors["scaler"])
        if self.averages is not None:  # if the earlier run had none, they start here
            for own, kept in zip(self.averages, tensors.get("averages") or self.parameters, strict=True):
                own.copy_(kept.detach())
        _restore_random_states(tensors["generators"][self.processes.rank], self.processes.device)
        for name in ("global_step", "epoch", "batch", "best_score", "evaluations_without_best", "metrics"):
            setattr(self, name, state[name])
        self.kept = state.get("kept", {})  # states of earlier versions lack this and the next two
        self.started, self._seconds_before = state.get("started", self.started), state.get("seconds", 0.0)
        logger.info(f"resumed from {path}: epoch {self.epoch + 1}, batch {self.batch}, global step {self.global_step}")
        return True


def _change_of_labels(before: list[str] | None, now: list[str] | None) -> str:
    before, now = before or [], now or []
    if sorted(before) == sorted(now):
        place = next(place for place, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        return f"the labels stand in another order (number {place + 1} was {before[place]!r} and is {now[place]!r})"
    new, gone = (sorted(set(these) - set(others)) for these, others in ((now, before), (before, now)))
    parts = [f"{', '.join(map(repr, some[:3]))}{' ...' if some[3:] else ''} {word}" for some, word in
             ((new, "new"), (gone, "gone")) if some]  # fmt: skip
    return f"the labels have changed ({'; '.join(parts)})"


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether all values are finite; the host waits for the GPU only once."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def _random_states(device: torch.device) -> dict[str, Any]:
    numpy = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])},
    }


def _restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    random.setstate(states["python"])
    key = np.array(states["numpy"]["key"], dtype=np.uint32)
    np.random.set_state(("MT19937", key, states["numpy"]["pos"]))
