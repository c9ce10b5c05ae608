"""Start a run: read its configuration, check its folder, load its data, then train or try a few steps."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsformer.errors import DeviceError
from drsformer.memory import is_out_of_memory
from drsformer_cli import images, recipes, sheet
from drsformer_cli.errors import ExitCode, UsageError, reason
from drsformer_cli.paths import identity
from drsformer_cli.training import loop, run_data, toml_config
from drsformer_cli.training.config import Config, load
from drsformer_cli.training.report import write_image
from drsformer_cli.training.run_folder import CONFIG_FILE, RunFolder
from drsformer_cli.training.state import make_state
from drsformer_cli.training.toml_config import MistakesError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from drsformer_cli.ranks import Ranks
    from drsformer_cli.training.run_data import Data

CHECK_FILE = "batch.png"
"""Samples that a trial writes into the folder of the run."""

_SHOWN = 16  # samples in the file
_PER_ROW = 4


@dataclass(frozen=True)
class TrainingPlan:
    """A run that is ready to start.

    Attributes:
        name: File or recipe of the configuration.
        config: The configuration.
        folder: Folder of the run; it may not exist yet.
        resume: Whether it resumes from the latest checkpoint in the folder.
        notes: Warnings, one line each.
    """

    name: str
    config: Config
    folder: RunFolder
    resume: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageTrial:
    """The measurements of a trial step of a stage.

    Attributes:
        step: The first step of the stage.
        batch: Description of its batches.
        seconds: Time per step.
        megabytes: Peak memory so far.
        loss: Loss of the step.
        hours: Estimated time of all steps of the stage.
    """

    step: int
    batch: str
    seconds: float
    megabytes: float
    loss: float
    hours: float


def plan(
    name: str | None, output: Path | None, settings: Sequence[str], processes: int, *, resume: bool, check: bool
) -> TrainingPlan:
    """Read the configuration and check the folder; nothing is written.

    Args:
        name: TOML file or bundled recipe; None with `resume`: the configuration of the run.
        output: Folder of the run. Default: runs/NAME.
        settings: `key=value` settings on top of the configuration.
        processes: World size, among which a batch is split.
        resume: Whether to resume from the latest checkpoint in `output`.
        check: Whether only `try_steps` will be called, which does not change an existing run.

    Raises:
        UsageError: The configuration or the folder cannot be used.
    """
    if resume and output and not RunFolder(output).checkpoints():
        raise UsageError(f"--resume: no checkpoint in {output}; omit --resume to start a run")
    if name is None:
        if resume and output is None:
            raise UsageError("--resume: needs the folder of the run, as --output")
        if output is None or not resume:
            raise UsageError(f"--config is missing: expected a TOML file or one of {', '.join(recipes.NAMES)}")
        name = str(output / CONFIG_FILE)
    try:
        config = load(name, list(settings))
    except MistakesError as error:
        missing = run_data.find(error.partial).findings.mistakes if isinstance(error.partial, Config) else []
        raise MistakesError(name, [*error.mistakes, *missing]) from None
    share = config.training.accumulate * processes
    for step in config.stage_steps():
        batch = config.at(step).training.batch
        if batch % share:
            raise UsageError(
                f"training.batch: {batch} cannot be split among {processes} processes "
                f"with training.accumulate {config.training.accumulate}; expected a multiple of {share}"
            )
    folder = _run_folder(name, output, may_exist=resume or check)
    notes = []
    if config.training.constant >= config.training.steps:
        notes.append(
            f"training.constant ({config.training.constant}) is not below training.steps ({config.training.steps}): "
            "the learning rate will not fall"
        )
    return TrainingPlan(name, config, folder, resume, notes)


def _run_folder(name: str, output: Path | None, *, may_exist: bool) -> RunFolder:
    """The folder of a run, after checks.

    Raises:
        UsageError: It holds a run that must not be there, the configuration itself or other files, or is not writable.
    """
    folder = RunFolder(output or Path("runs") / Path(name).stem)
    if not may_exist and folder.checkpoints():
        raise UsageError(f"--output {folder.path}: already holds a run; --resume resumes it")
    if not may_exist and identity(Path(name)) == identity(folder.path / CONFIG_FILE):
        raise UsageError(
            f"--output {folder.path}: the run would replace {name}, its configuration; expected a new folder"
        )
    folder.refuse_unsuitable(CHECK_FILE)
    return folder


def read_data(plan: TrainingPlan, progress: Callable[[int, int], None]) -> Data:
    """Find, check and decode the images; `progress(done, total)` is called after each.

    Raises:
        MistakesError: Folders are missing, empty, or without usable images.
    """
    images.allow_megapixels(None)
    return run_data.load(plan.config, plan.name, progress)


def train(plan: TrainingPlan, data: Data, device: torch.device, ranks: Ranks, say: Callable[[str], None]) -> ExitCode:
    """Train to the last step, or until asked to stop.

    Args:
        plan: The run.
        data: Its samples and validation images.
        device: Device of this process.
        ranks: The processes.
        say: Called on rank 0 with each line to print before the first step.

    Raises:
        TrainingError: Training failed, see `loop.train`.
        UsageError: Another process is training into the folder, or the folder is not writable.
        DeviceError: The device is out of memory.
    """
    config, folder = plan.config, plan.folder
    resumed = folder.latest() if plan.resume else None
    with _out_of_memory_explained(device), contextlib.ExitStack() as stack:
        state = make_state(config, device, resumed)
        ranks.on_rank_0(lambda: stack.enter_context(folder.alone()))
        if ranks.is_rank_0:
            steps = config.training.steps
            if state.step >= steps:
                say(f"nothing left to do: {state.step} of {steps} steps are done (training.steps)")
            else:
                begin = f"resuming after step {state.step} of {steps}: " if resumed else ""
                say(f"{begin}{loop.describe_batch(config, state.step + 1, ranks)}, on {device}")
            before = resumed["training"]["run"] if resumed else toml_config.as_tables(config)
            for change in toml_config.differences(before, toml_config.as_tables(config)):
                say(f"changed since the checkpoint: {change}")
        code = loop.train(config, data, folder, device, ranks, state)
    ranks.close()
    return code


def try_steps(plan: TrainingPlan, data: Data, device: torch.device, ranks: Ranks) -> tuple[int, list[StageTrial]]:
    """Try two steps of each stage and write a sheet of samples.

    Returns:
        The number of parameters, and the measurements of each stage.

    Raises:
        DRSformerError: The weights to start from cannot be used, or the device is out of memory.
    """
    config = plan.config
    with _out_of_memory_explained(device):
        state = make_state(config, device)
        make_step, throughput = loop.TrainerStep(config, state, device, ranks), loop.Throughput(device)
        trials = []
        firsts = config.stage_steps()
        for first, end in zip(firsts, [*firsts[1:], config.training.steps + 1], strict=True):
            loss: Any = None
            for batch in data.samples.batches([first, first], ranks.shard):
                throughput.restart()  # only the second step counts: the first one includes warm-up
                loss = float(make_step(first, batch))
                throughput.count(config.at(first).training.batch)
            row = throughput.row()
            seconds = config.at(first).training.batch / row["samples_per_second"]
            batch_text = loop.describe_batch(config, first, ranks)
            trials.append(
                StageTrial(first, batch_text, seconds, row["memory_mb"], loss, (end - first) * seconds / 3600)
            )
    if ranks.is_rank_0:
        samples = [data.samples.sample(1, index) for index in range(_SHOWN)]  # each (2, P, P, 3)
        rows = [
            sheet.row("rainy, clean, ...", [part for pair in samples[i : i + _PER_ROW] for part in pair])
            for i in range(0, _SHOWN, _PER_ROW)
        ]
        try:
            write_image(sheet.stack(rows), plan.folder.path / CHECK_FILE)
        except OSError as error:
            raise UsageError(f"--output {plan.folder.path}: cannot write there: {reason(error)}") from None
    return sum(parameter.numel() for parameter in state.model.parameters()), trials


@contextlib.contextmanager
def _out_of_memory_explained(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} is out of memory: lower training.batch or data.patch, or raise training.accumulate"
        ) from None
