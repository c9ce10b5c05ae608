"""`drsformer train`: a configuration in, a run folder with checkpoints out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drsformer.errors import DRSformerError
from drsformer_cli import console, options
from drsformer_cli.errors import ExitCode, UsageError, exit_code
from drsformer_cli.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from drsformer_cli.training.config import Config
    from drsformer_cli.training.run_folder import RunFolder
    from drsformer_cli.training.sources import Data

RECIPES = "rain200l, rain200h, did, ddn, spa, general"
MOST_PROBLEMS = 20
"""Unusable files that are named one by one."""

CHECK_FILE = "batch.png"


def train(
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE|RECIPE", help=f"TOML file, or a bundled recipe: {RECIPES}."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run; else runs/NAME.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the latest checkpoint in --output."),
    ] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the configuration; may be repeated."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help=f"Check everything, try a step, write {CHECK_FILE} with samples, and stop.")
    ] = False,
) -> None:
    """Train a network on pairs, on rain layers over your photos, or on rendered rain.

    The folder of the run holds config.toml, step_N.pth (to --resume from), best.pth (for derain --model),
    metrics.jsonl, curves.png and images of each validation. Ctrl-C finishes the step and saves.

    Exit codes: 0 done; 1 failed (collapsed, diverged, disk full); 2 wrong usage or configuration, nothing was done;
    4 weights unavailable; 130 interrupted, 143 terminated: saved, --resume goes on.

    From a folder of clean photos: drsformer train -c general --set data.clean=PHOTOS

    Several GPUs: torchrun --nproc-per-node N -m drsformer_cli train -c FILE
    """
    ranks = Ranks()
    try:
        run, folder = ranks.on_rank_0(
            lambda: _plan(config, output, settings or [], ranks.world_size, resume=resume, check=check)
        )
        from drsformer.memory import keep_freed_memory  # noqa: PLC0415 - slow imports wait until there is work
        from drsformer_cli import images  # noqa: PLC0415
        from drsformer_cli.device import resolve_device, set_threads  # noqa: PLC0415
        from drsformer_cli.training import sources  # noqa: PLC0415

        keep_freed_memory()
        set_threads(threads)
        images.allow_megapixels(None)
        place = resolve_device(device)
        with console.progress_bar(visible=ranks.is_rank_0) as bar:
            task = bar.add_task("reading images", total=None)
            data = sources.load(
                run, config or str(folder.path), lambda done, total: bar.update(task, completed=done, total=total)
            )
        if ranks.is_rank_0:
            _say_data(data)
        with folder.alone() if ranks.is_rank_0 and not check else contextlib.nullcontext():
            code = _run(run, folder, data, place, ranks, resume=resume, check=check)
    except DRSformerError as error:
        if not ranks.is_rank_0:
            raise typer.Exit(exit_code(error)) from None  # the first rank says it
        raise _listed(error) from None
    raise typer.Exit(code)


def _plan(
    name: str | None, output: Path | None, settings: list[str], processes: int, *, resume: bool, check: bool
) -> tuple[Config, RunFolder]:
    """The configuration and the folder, ready to be written into."""
    from drsformer_cli.training.config import load  # noqa: PLC0415
    from drsformer_cli.training.run_folder import CONFIG, RunFolder  # noqa: PLC0415

    if resume and output and not RunFolder(output).checkpoints():
        raise UsageError(f"--resume: no checkpoint in {output}; leave --resume out to begin a run")
    if name is None:
        if not (resume and output):
            raise UsageError(f"--config is missing: a TOML file, or one of {RECIPES}; --resume takes that of --output")
        name = str(output / CONFIG)
    config = load(name, settings)
    share = config.training.accumulate * processes
    for step in config.stage_steps():
        batch = config.at(step).training.batch
        if batch % share:
            raise UsageError(
                f"training.batch: {batch} cannot be shared by {processes} processes "
                f"with training.accumulate {config.training.accumulate}; expected a multiple of {share}"
            )
    folder = RunFolder(output or Path("runs") / Path(name).stem)
    if folder.checkpoints() and not (resume or check):
        raise UsageError(f"--output {folder.path}: holds a run already; --resume goes on with it")
    folder.prepare(CHECK_FILE)
    if config.training.constant >= config.training.steps:
        console.say(
            f"training.constant ({config.training.constant}) is not below training.steps ({config.training.steps}): "
            "the learning rate will not fall"
        )
    return config, folder


def _listed(error: DRSformerError) -> DRSformerError:
    """The error itself; where it stands for many mistakes, they are said first, a line each."""
    from drsformer_cli.training.toml_config import MistakesError  # noqa: PLC0415

    if not isinstance(error, MistakesError) or len(error.mistakes) == 1:
        return error
    for mistake in error.mistakes:
        console.error(mistake)
    return UsageError(f"{error.source}: {len(error.mistakes)} mistakes")


def _say_data(data: Data) -> None:
    for note in data.notes:
        console.say(note)
    console.errors("left out", data.problems, MOST_PROBLEMS)
    if not data.validation:
        console.say("no validation: there will be no best.pth (see [validation] paired and held_out)")


def _run(
    config: Config,
    folder: RunFolder,
    data: Data,
    device: torch.device,
    ranks: Ranks,
    *,
    resume: bool,
    check: bool,
) -> ExitCode:
    from drsformer.errors import DeviceError  # noqa: PLC0415
    from drsformer.memory import is_out_of_memory  # noqa: PLC0415
    from drsformer_cli.training.loop import describe_batch  # noqa: PLC0415
    from drsformer_cli.training.loop import train as loop  # noqa: PLC0415
    from drsformer_cli.training.toml_config import differences, plain  # noqa: PLC0415

    resumed = folder.latest() if resume else None
    if ranks.is_rank_0:
        begin = resumed["training"]["step"] + 1 if resumed else 1
        console.say(f"{describe_batch(config, begin, ranks)}, on {device}")
        for change in differences(resumed["training"]["run"], plain(config)) if resumed else []:
            console.say(f"changed since the checkpoint: {change}")
    try:
        if check:
            _check(config, folder, data, device, ranks)
            return ExitCode.DONE
        code = loop(config, data, folder, device, ranks, resumed)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} is out of memory: lower training.batch or data.patch, or raise training.accumulate"
        ) from None
    ranks.close()
    if ranks.is_rank_0:
        last = folder.checkpoints()[-1:]
        state = "done" if code == ExitCode.DONE else "stopped; --resume goes on from the latest checkpoint"
        console.result(f"{folder.path}: {state}" + "".join(f", {path.name}" for path in last))
    return code


def _check(config: Config, folder: RunFolder, data: Data, device: torch.device, ranks: Ranks) -> None:
    """Try two steps and say what one costs; write samples to look at."""
    from drsformer_cli import sheet  # noqa: PLC0415
    from drsformer_cli.training.loop import Step, Watch, describe_batch  # noqa: PLC0415
    from drsformer_cli.training.report import write_image  # noqa: PLC0415
    from drsformer_cli.training.state import make_state  # noqa: PLC0415

    state = make_state(config, device)
    step_of, watch = Step(config, state, device, ranks), Watch(device)
    loss: Any = None
    firsts = config.stage_steps()
    hours = 0.0
    for first, end in zip(firsts, [*firsts[1:], config.training.steps + 1], strict=True):
        for step, batch in zip((first, first), data.samples.batches([first, first], ranks.shard), strict=True):
            watch.restart()  # what counts is the second: the first one prepares
            loss = float(step_of(step, batch))
            watch.count(config.at(step).training.batch)
        row = watch.row()
        seconds = config.at(first).training.batch / row["samples_per_second"]
        hours += (end - first) * seconds / 3600
        if ranks.is_rank_0:
            console.say(
                f"from step {first}: {describe_batch(config, first, ranks)}; a step takes {seconds:.2f} s and "
                f"{row['memory_mb']:.0f} MB, loss {loss:.4f}"
            )
    if ranks.is_rank_0:
        samples = [data.samples.sample(1, index) for index in range(16)]  # each (2, P, P, 3)
        rows = [
            sheet.row("rainy, clean, ...", [part for pair in samples[i : i + 4] for part in pair])
            for i in range(0, 16, 4)
        ]
        write_image(sheet.stack(rows), folder.path / CHECK_FILE)
        parameters = sum(parameter.numel() for parameter in state.model.parameters())
        console.say(
            f"{parameters:,} parameters; {config.training.steps} steps would take {hours:.1f} hours, validation apart"
        )
        console.say(f"{len(data.validation)} images to validate on")
        console.result(f"{folder.path / CHECK_FILE}: samples, each rainy and clean")
