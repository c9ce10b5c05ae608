"""The training loop."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from drsformer.checkpoint import save_checkpoint
from drsformer.errors import CheckpointError, DRSformerError
from drsformer.inference import half_precision
from drsformer_cli import console
from drsformer_cli.errors import ExitCode, reason
from drsformer_cli.signals import SIGNALS, StopHandler
from drsformer_cli.training import toml_config
from drsformer_cli.training.report import TrainingLog
from drsformer_cli.training.run_folder import BEST_FILE
from drsformer_cli.training.schedule import learning_rate
from drsformer_cli.training.validation import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drsformer_cli.ranks import Ranks
    from drsformer_cli.training.config import Config, TrainingSection
    from drsformer_cli.training.rain import Pixels
    from drsformer_cli.training.run_data import Data
    from drsformer_cli.training.run_folder import RunFolder
    from drsformer_cli.training.state import State
    from drsformer_cli.training.validation import Validation

COLLAPSED = 0.01
"""Change of PSNR in dB; if it is smaller on every validation image, the network has collapsed to the identity."""

DIVERGED = 5.0
"""Ratio of the running mean of the loss to its minimum at which training stops."""

SETTLED = 100
"""Steps after the warm-up before DIVERGED is checked."""

_LOSS_DECAY = 0.98  # of the running mean of the loss


class TrainingError(DRSformerError):
    """Training failed and cannot continue."""


def train(  # noqa: C901 - the loop should read from top to bottom
    config: Config, data: Data, folder: RunFolder, device: torch.device, ranks: Ranks, state: State
) -> ExitCode:
    """Train to the last step, or until asked to stop; returns the exit code.

    Args:
        config: Configuration of the run.
        data: Samples and validation images.
        folder: Folder of the run, which rank 0 writes to.
        device: Device of this process.
        ranks: The processes.
        state: State before the first step, as `make_state` returns it.

    Raises:
        TrainingError: The network collapsed, diverged, or its loss is not finite; or the last checkpoint cannot be
            written.
    """
    validation, output = config.validation, config.output
    make_step = TrainerStep(config, state, device, ranks)
    if ranks.is_rank_0:
        folder.write_config(toml_config.as_tables(config))
    log = TrainingLog(folder.path, state.step) if ranks.is_rank_0 else None
    losses: list[Tensor] = []
    throughput = Throughput(device)
    new_stages = config.stage_steps()[1:] if ranks.is_rank_0 else []
    first, last = state.step + 1, config.training.steps
    batches = data.samples.batches(range(first, last + 1), ranks.shard)
    with StopRequest() as stop, contextlib.closing(batches), console.progress_bar(visible=ranks.is_rank_0) as bar:
        task = bar.add_task("", total=last, completed=state.step)
        for step in range(first, last + 1):
            with throughput.waiting():
                batch = next(batches)  # (B, 2, P, P, 3) uint8, this process's share
            training = config.at(step).training
            losses.append(make_step(step, batch))
            throughput.count(training.batch)
            if step + 1 in new_stages:
                console.say(f"step {step}: next stage: {describe_batch(config, step + 1, ranks)}")

            stopping = ranks.all_reduce([stop.code is not None])[0] > 0
            ending = stopping or step == last
            logging, measuring, saving = (
                ending or (every and step % every == 0)
                for every in (output.log_every, validation.every, output.save_every)
            )
            if logging or measuring or saving:
                _judge_losses(state, losses, ranks, config)
            if logging and log is not None:
                text = _log(log, state, training, throughput)
                bar.update(task, description=text)
                if not bar.live.is_started:
                    console.say(f"step {step} of {last}  {text}")
            bar.update(task, completed=step)
            if measuring and data.validation and not stopping:
                _validate(state, data, config, folder, log, ranks, stop)
                throughput.restart()
            if saving:
                _save(state, config, folder, ranks, must=ending)
            if stopping:
                break
    if log is not None:
        log.close()
    if state.step < last:
        return stop.code or ExitCode.TERMINATED
    return ExitCode.DONE


class TrainerStep:
    """Runs a trainer step on this process's share of a batch."""

    def __init__(self, config: Config, state: State, device: torch.device, ranks: Ranks) -> None:
        self.config, self.state, self.device = config, state, device
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.training.tf32
        self.half = half_precision(config.training.precision, device)
        self.network: Any = torch.compile(state.model) if config.training.compile else state.model
        self.together = ranks.world_size > 1
        if self.together:
            self.network = _distributed(self.network, device)

    def __call__(self, step: int, batch: Pixels) -> Tensor:
        """The mean loss of the batch (B, 2, P, P, 3), a scalar on the device."""
        training, state = self.config.at(step).training, self.state
        lr = learning_rate(step, training)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss = torch.zeros((), device=self.device)
        parts = np.split(batch, training.accumulate)
        for number, part in enumerate(parts, 1):
            pair = torch.from_numpy(part).to(self.device).permute(1, 0, 4, 2, 3).float() / 255
            rainy, clean = pair  # each (B / parts, 3, P, P), channels-last, in [0, 1]
            # Processes exchange gradients only with the last part.
            alone = self.together and number < len(parts)
            with self.network.no_sync() if alone else contextlib.nullcontext():
                with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
                    restored = self.network(rainy)
                part_loss = criterion(restored.float(), clean, training) / len(parts)
                state.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), training.clip or math.inf)
        # The scaler skips an optimizer if its own gradients overflowed in fp16; the others must skip the step, too.
        if not state.scaler.is_enabled() or norm.isfinite():
            for optimizer in state.optimizers:
                state.scaler.step(optimizer)
        state.scaler.update()
        state.model.zero_grad()
        state.average(training.ema)
        state.step = step
        return loss


def criterion(restored: Tensor, clean: Tensor, training: TrainingSection) -> Tensor:
    """The loss that `TrainingSection.loss` names: (B, 3, H, W) twice -> scalar."""
    difference = restored - clean
    if training.loss == "l1":
        return difference.abs().mean()
    square = difference.square()
    if training.loss == "rmse":
        square = square.mean(dim=(1, 2, 3))
    return (square + training.charbonnier_eps**2).sqrt().mean()


def _distributed(network: Any, device: torch.device) -> nn.Module:  # noqa: ANN401 - torch.compile gives a callable
    """The network with gradients averaged over the processes."""
    import warnings

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    # Kernels of 1x1 are contiguous and channels-last at once, so that DDP doubts their strides; results are the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # The default group is gloo's, for CPUs.
    group = dist.new_group(backend="nccl") if device.type == "cuda" else None
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, process_group=group)


def describe_batch(config: Config, step: int, ranks: Ranks) -> str:
    """A description of the batches at a step."""
    at = config.at(step)
    batch, side = at.training.batch, at.data.patch
    each = batch // ranks.world_size // at.training.accumulate
    at_a_time = f", {each} at a time" if each < batch else ""
    processes = f" in each of {ranks.world_size} processes" if ranks.world_size > 1 else ""
    return f"batches of {batch} patches of {side}x{side} pixels{at_a_time}{processes}, loss {at.training.loss}"


def _judge_losses(state: State, losses: list[Tensor], ranks: Ranks, config: Config) -> None:
    """Update the running mean with the losses since the last call.

    Raises:
        TrainingError: A loss is not finite, or training diverged.
    """
    values = ranks.all_reduce(torch.stack(losses).tolist())
    first = state.step - len(losses) + 1
    losses.clear()
    for step, total in enumerate(values, first):
        training = config.at(step).training
        if state.loss_name != training.loss:  # values of different losses are not comparable
            state.loss_name, state.loss, state.lowest_loss = training.loss, None, math.inf
        loss = total / ranks.world_size
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step}: lower training.lr, clip harder (training.clip), or, on a GPU, "
                'set training.precision = "fp32"; no checkpoint was written after it'
            )
        state.loss = loss if state.loss is None else _LOSS_DECAY * state.loss + (1 - _LOSS_DECAY) * loss
        if step > training.warmup + SETTLED:
            state.lowest_loss = min(state.lowest_loss, state.loss)
            if state.loss > DIVERGED * state.lowest_loss:
                raise TrainingError(
                    f"training diverged: at step {step} the loss is {state.loss:.4f} after {state.lowest_loss:.4f}; "
                    "lower training.lr, or clip harder (training.clip)"
                )


def _log(log: TrainingLog, state: State, training: TrainingSection, throughput: Throughput) -> str:
    """Log the step; returns a summary for the terminal."""
    measured = throughput.row()
    lr = learning_rate(state.step, training)
    log.add({"step": state.step, "loss": state.loss, "lr": lr, **measured})
    return (
        f"loss {state.loss:.4f}  lr {lr:.1e}  {measured['samples_per_second']:.1f} samples/s  "
        f"{measured['data_wait']:.0%} data wait  {measured['memory_mb']:.0f} MB"
    )


def _validate(
    state: State,
    data: Data,
    config: Config,
    folder: RunFolder,
    log: TrainingLog | None,
    ranks: Ranks,
    stop: StopRequest,
) -> None:
    """Validate the network, and save it if it is the best so far.

    Raises:
        TrainingError: The network collapsed.
    """
    protocol = config.validation.protocol
    validation = validate(state.result, data.validation, protocol, ranks, lambda: stop.code is not None)
    if validation is not None:
        _judge_scores(validation, state, config.training)
        _keep_if_best(state, validation, config, folder, log)


def _judge_scores(validation: Validation, state: State, training: TrainingSection) -> None:
    if state.step > training.warmup and validation.unchanged(COLLAPSED):
        raise TrainingError(
            f"the network collapsed: at step {state.step} every validation image keeps the PSNR of its rainy input, "
            f"{validation.row()['psnr_input']:.4f} dB on average. Start again with a lower training.lr, a longer "
            "training.warmup or another seed; best.pth is the last good one"
        )


def _keep_if_best(
    state: State, validation: Validation, config: Config, folder: RunFolder, log: TrainingLog | None
) -> None:
    if log is None:  # rank 0 saves it
        return
    row = validation.row()
    best = row["psnr"] > state.best
    log.add({"step": state.step, **row})
    log.write_images(state.step, validation.shown)
    console.say(
        f"step {state.step}: PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f} (input {row['psnr_input']:.2f} dB)"
        f"{', the best so far' if best else ''}"
    )
    if best:
        about = {"step": state.step, "psnr": row["psnr"], "run": toml_config.as_tables(config)}
        try:
            save_checkpoint(state.result, folder.path / BEST_FILE, half=config.output.half, training=about)
        except (OSError, CheckpointError) as error:
            console.error(f"{folder.path / BEST_FILE}: not saved: {reason(error)}; the previous one is kept")
        else:
            state.best = row["psnr"]


def _save(state: State, config: Config, folder: RunFolder, ranks: Ranks, *, must: bool) -> None:
    """Write a checkpoint; a failure is an error with `must`, otherwise it is only reported.

    Raises:
        TrainingError: The weights are not finite, or the checkpoint cannot be written and `must` is True.
    """
    if not state.finite():
        raise TrainingError(f"weights are not finite after step {state.step}: lower training.lr; nothing was saved")
    if not ranks.is_rank_0:
        return
    try:
        folder.save(state.step, state.content(toml_config.as_tables(config)), config.output.keep)
    except OSError as error:
        message = f"{folder.path}: checkpoint of step {state.step} not saved: {reason(error)}; earlier ones are kept"
        if must:
            raise TrainingError(message) from None
        console.error(message)


class Throughput:
    """Measures throughput, time spent waiting for data, and memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Reset the measurement."""
        self._begin, self._waited, self._samples = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the block as waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def count(self, samples: int) -> None:
        """Count finished samples."""
        self._samples += samples

    def row(self) -> dict[str, float]:
        """Samples per second over all processes, fraction of time spent waiting, and peak memory in megabytes.

        The measurement is restarted.
        """
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        row = {
            "samples_per_second": self._samples / seconds,
            "data_wait": self._waited / seconds,
            "memory_mb": _memory(self._device) / 1e6,
        }
        self.restart()
        return row


def _memory(device: torch.device) -> float:
    """Peak memory in bytes, of the GPU or of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return math.nan
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class StopRequest:
    """Makes Ctrl-C, SIGTERM and SIGHUP ask the loop to finish its step and save; a later signal exits immediately.

    Attributes:
        code: Exit code for the signal; None before there is one.
    """

    def __init__(self) -> None:
        self.code: ExitCode | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        handler = StopHandler(self._ask, sys.exit)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, code: ExitCode) -> None:
        self.code = code
