"""What `derain` tells a person or a program: the progress, a line for each result, and the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drsformer_cli import console
from drsformer_cli.errors import IMAGE_ERRORS, ExitCode, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from rich.progress import Progress

    from drsformer_cli.deraining.pipeline import Written
    from drsformer_cli.deraining.plan import Job, Plan
    from drsformer_cli.video.pipeline import WrittenVideo

HARDLY_CHANGED = 0.2
"""Mean change, on a scale of 255, below which a warning says that the model may not suit the rain."""


def follower(bar: Progress, jobs: Sequence[Job]) -> Callable[[Job, float, str], None]:
    """A function that updates the bar with the progress of a job and a text; all jobs have the same weight."""
    task = bar.add_task("", total=len(jobs))
    number = {job: i for i, job in enumerate(jobs)}

    def follow(job: Job, done: float, detail: str) -> None:
        bar.update(task, description=f"{job.name} {detail}".rstrip(), completed=number[job] + done)

    return follow


@dataclass
class Outcome:
    """The results of one rank."""

    done: int = 0
    incomplete: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    hardly_changed: list[str] = field(default_factory=list)


def exit_code(outcomes: list[Outcome], *, complete: bool) -> ExitCode:
    """The exit code of a run; `complete`: whether all else that was asked for was written."""
    done, failed = sum(outcome.done for outcome in outcomes), sum(len(outcome.failures) for outcome in outcomes)
    if not failed and not any(outcome.incomplete for outcome in outcomes):
        return ExitCode.DONE if complete else ExitCode.SOME_FAILED
    return ExitCode.SOME_FAILED if done else ExitCode.FAILED


class Page:
    """The page of --report."""

    def __init__(self, path: Path, todo: Plan, model: str, *, overwrite: bool) -> None:
        from drsformer_cli.pages.report import Report

        self.report = Report(path, len(todo.jobs))
        self.total = len(todo.jobs) + len(todo.failures)
        self.model = model
        self.overwrite = overwrite

    def add(self, job: Job, written: Written | WrittenVideo) -> None:
        """Add an image or a video."""
        from drsformer_cli.deraining import report_page

        self.report.add(report_page.card(job, written, written.facts(self.model)))

    def write(self, outcomes: list[Outcome]) -> bool:
        """Write the page; returns whether that worked, and prints the reason if it did not."""
        from drsformer_cli.deraining import report_page

        failures = [failure for outcome in outcomes for failure in outcome.failures]
        overview = report_page.overview(len(self.report), self.total, failures, self.model)
        return self.report.save(overview, overwrite=self.overwrite)


class Reporter:
    """Prints results on stdout, and everything else on stderr."""

    def __init__(self, model: str, *, as_json: bool, quiet: bool, single: bool, expects_change: bool) -> None:
        self.model = model
        self.as_json = as_json
        self.quiet = quiet
        self.single = single
        self.expects_change = expects_change
        self.outcome = Outcome()
        self.pending: deque[tuple[Job, Future[Written]]] = deque()

    def add(self, job: Job, writing: Future[Written] | Future[WrittenVideo]) -> None:
        """Wait until an output is written, and report it."""
        try:
            written = writing.result()
        except IMAGE_ERRORS as error:
            self.fail_all([(job.name, reason(error))])
        else:
            self._success(job, written)

    def interrupted(self, stop: BaseException, number: int) -> None:
        """Report what was written before an interrupt, and add a note on how much that is."""
        for job, writing in self.pending:
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                self.add(job, writing)
        self.summarize([self.outcome])
        stop.add_note(f"{self.outcome.done} of {number} done")

    def _success(self, job: Job, written: Written | WrittenVideo) -> None:
        for text in written.notes if not self.quiet else ():
            console.say(f"{job.name}: {text}")
        if written.problem:
            console.error(f"{job.name}: {written.problem}")
        self.outcome.done += 1
        self.outcome.incomplete += not written.is_complete
        if self.expects_change and written.mean_change < HARDLY_CHANGED:
            self.outcome.hardly_changed.append(job.name)
        if job.target is None:
            return
        if self.as_json:
            facts = {**job.paths(), **written.facts(self.model)}
            console.result(console.json_line(facts))
        elif not self.quiet:
            console.result(f"{job.name} -> {job.target}  {written.summary()}")

    def fail_all(self, failures: Sequence[tuple[str, str]]) -> None:
        """Report inputs that have no output, and why."""
        self.outcome.failures += failures
        for name, text in failures if self.as_json else ():
            console.result(console.json_line({"input": name, "error": text}))

    def summarize(self, outcomes: list[Outcome]) -> None:
        """Print the failures of all ranks, and what to try next."""
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        unchanged = [name for outcome in outcomes for name in outcome.hardly_changed]
        if failures and not self.single:
            console.error(f"{len(failures)} of {len(failures) + sum(o.done for o in outcomes)} inputs failed:")
        for name, text in failures:
            console.error(f"{name}: {text}")
        if unchanged and not self.quiet:
            console.say(
                f"hardly changed (less than {HARDLY_CHANGED} of 255 on average): {console.first_three(unchanged)}. "
                f"Either there is no rain, or the model {self.model!r} does not suit it: try another --model."
            )
