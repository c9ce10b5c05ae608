"""`drsformer train`: a configuration in, a run folder with checkpoints out."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from drsformer.errors import DRSformerError
from drsformer_cli import console, options, recipes
from drsformer_cli.errors import ExitCode, UsageError, exit_code
from drsformer_cli.ranks import Ranks

if TYPE_CHECKING:
    from drsformer_cli.training.launch import StageTrial, TrainingPlan
    from drsformer_cli.training.run_data import Data

_MOST_PROBLEMS = 20  # unusable files that are listed


def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE|RECIPE",
            help=f"TOML file, or a bundled recipe: {', '.join(recipes.NAMES)}. Default with --resume: that of the run.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the run. Default: runs/NAME.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the latest checkpoint in --output."),
    ] = False,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the configuration. Repeat for several."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check everything, try a step of each stage, write batch.png with samples, exit."),
    ] = False,
) -> None:
    """Train a model on pairs, on rain layers over clean images, or on rendered rain.

    The folder of the run holds config.toml, step_N.pth (to --resume from), best.pth (for derain --model),
    metrics.jsonl, curves.png and images of each validation. Ctrl-C finishes the step and saves.

    Exit codes: 0 done; 1 failed (collapsed, diverged, disk full); 2 invalid usage or configuration, nothing was done;
    4 weights unavailable; 130 interrupted, 143 terminated: saved, --resume continues. Under torchrun, the exit code is
    torchrun's own: 0, or 1 if any process ended with another code.

    From a folder of clean images: drsformer train -c general --set data.clean=FOLDER

    Several GPUs: torchrun --standalone --nproc-per-node N -m drsformer_cli train -c FILE
    """
    ranks = Ranks()
    try:
        code = _train(ranks, config, output, device, threads, settings or [], resume=resume, check=check)
    except DRSformerError as error:
        if not ranks.is_rank_0:
            raise typer.Exit(exit_code(error)) from None  # rank 0 prints it
        raise _listed(error) from None
    raise typer.Exit(code)


def _train(
    ranks: Ranks,
    config: str | None,
    output: Path | None,
    device: str,
    threads: int | None,
    settings: list[str],
    *,
    resume: bool,
    check: bool,
) -> ExitCode:
    from drsformer.memory import keep_freed_memory
    from drsformer_cli.device import resolve_device, set_threads
    from drsformer_cli.training import launch

    plan = ranks.on_rank_0(lambda: launch.plan(config, output, settings, ranks.world_size, resume=resume, check=check))
    keep_freed_memory()
    set_threads(threads)
    place = resolve_device(device)
    with console.progress_bar(visible=ranks.is_rank_0) as bar:
        task = bar.add_task("reading images", total=None)
        data = launch.read_data(plan, lambda done, total: bar.update(task, completed=done, total=total))
    if ranks.is_rank_0:
        _say_data(plan, data)
    if check:
        parameters, trials = launch.try_steps(plan, data, place, ranks)
        if ranks.is_rank_0:
            _say_trials(plan, parameters, trials)
            console.result(f"{plan.folder.path / launch.CHECK_FILE}: samples, each rainy and clean")
        return ExitCode.DONE
    code = launch.train(plan, data, place, ranks, console.say)
    if ranks.is_rank_0:
        last = plan.folder.checkpoints()[-1:]
        state = "done" if code == ExitCode.DONE else "stopped; --resume continues from the latest checkpoint"
        console.result(f"{plan.folder.path}: {state}" + "".join(f", {path.name}" for path in last))
    return code


def _listed(error: DRSformerError) -> DRSformerError:
    """The error itself; if it covers several mistakes, they are printed first, one per line."""
    from drsformer_cli.training.toml_config import MistakesError

    if not isinstance(error, MistakesError) or len(error.mistakes) == 1:
        return error
    for mistake in error.mistakes:
        console.error(mistake)
    return UsageError(f"{error.source}: {len(error.mistakes)} mistakes")


def _say_data(plan: TrainingPlan, data: Data) -> None:
    for note in [*plan.notes, *data.notes]:
        console.say(note)
    console.errors("left out", data.problems, _MOST_PROBLEMS)
    if not data.validation:
        console.say("no validation: there will be no best.pth (see [validation] paired and held_out)")
    else:
        console.say(f"{len(data.validation)} images to validate on")


def _say_trials(plan: TrainingPlan, parameters: int, trials: list[StageTrial]) -> None:
    for trial in trials:
        console.say(
            f"from step {trial.step}: {trial.batch}; a step takes {trial.seconds:.2f} s and {trial.megabytes:.0f} MB, "
            f"loss {trial.loss:.4f}"
        )
    duration = _duration(sum(trial.hours for trial in trials))
    console.say(
        f"{parameters:,} parameters; {plan.config.training.steps} steps would take {duration}, validation not included"
    )


def _duration(hours: float) -> str:
    if hours >= 2:
        return f"{hours:.1f} hours"
    minutes = round(60 * hours)
    return f"{minutes} minutes" if minutes > 1 else "about a minute" if minutes else "less than a minute"
