"""`drsformer export`: write a model in the formats of other programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from drsformer_cli import console, options
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError
from drsformer_cli.exporting import files
from drsformer_cli.paths import identity


def parse_size(text: str) -> tuple[int, int]:
    """The value of --size, `N` or `HxW`, as H and W."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not N or HxW in pixels")
    return int(found[1]), int(found[2] or found[1])


def _checked_size(text: str | None) -> str | None:
    if text is not None:
        parse_size(text)
    return text


def export(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help=f"{options.MODEL_HELP} Default: general.", show_default=False)
    ] = zoo.DEFAULT_MODEL,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"File; its ending decides the format: {', '.join(files.SUFFIXES)}. Default: MODEL.onnx.",
        ),
    ] = None,
    program: Annotated[
        Literal["darktable"] | None,
        typer.Option(
            "--for",
            metavar="darktable",
            parser=options.one_of(["darktable"]),
            help="Write the package that darktable imports. Default of -o: MODEL.dtmodel.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="N|HxW",
            help="Fix the size of the images of a graph, in pixels. Default: any size; for darktable 512.",
            callback=_checked_size,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights in float16, half the size; a graph computes in it, too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object on stdout.")] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a model in the formats of other programs.

    ONNX files take `rainy` and give `restored`: float32 (1, 3, H, W), RGB in 0..1, H and W multiples of 8 times the
    network's stem. They are written only if ONNX Runtime's results with them are the network's.

    Exit codes: 0 done; 1 failed; 2 invalid usage, nothing was done; 4 weights unavailable; 130 interrupted.
    """
    target = files.Target(
        _path(model, output, program), None if size is None else parse_size(size), half=half, overwrite=overwrite
    )
    target.check()
    loaded = zoo.load_model(model, quiet=quiet)
    if identity(target.path) == identity(loaded.checkpoint):
        raise UsageError(f"{target.path} would be overwritten, but it is the model itself; choose another -o")
    target.check_for(loaded.network)
    if target.is_graph and not quiet:
        console.say("converting takes a minute or two, longer for large networks")
    difference = files.write(target, model, loaded)
    written = target.path.stat().st_size
    if as_json:
        facts = {"model": model, "output": str(target.path), "bytes": written, "largest_difference": difference}
        console.result(console.json_line(facts))
    elif not quiet:
        verified = "" if difference is None else f", differs from the network by at most {difference:.1e}"
        console.result(f"{model} -> {target.path}  {written / 1e6:.1f} MB{verified}")


def _path(model: str, output: str | None, program: str | None) -> Path:
    """The file to write."""
    suffix = files.ONNX if program is None else files.DARKTABLE
    if output is None:
        return Path(f"{model if model in zoo.MODELS else Path(model).stem}{suffix}")
    path = Path(output)
    if program is not None and path.suffix.lower() != suffix:
        raise UsageError(f"{path}: {program} imports {suffix} files; expected that ending")
    return path
