"""Options that several commands share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from drsformer.inference import Scale, TileSize


def parse_scale(text: str) -> Scale:
    """The value of --scale: `auto` or a number."""
    if text == "auto":
        return "auto"
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 1 <= scale <= 16:
        raise typer.BadParameter(f"{text!r} is not auto or a number from 1 to 16")
    return scale


def parse_tile(text: str) -> TileSize:
    """The value of --tile: `auto`, `none` or a number of pixels."""
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 8:
        raise typer.BadParameter(f"{text!r} is not auto, none or a number of at least 8")
    return int(text)


def _checked_scale(text: str) -> str:
    parse_scale(text)
    return text


def _checked_tile(text: str) -> str:
    parse_tile(text)
    return text


MODEL_HELP = "Name from `drsformer download --list`, downloaded if it is missing, or a checkpoint (.pth, .safetensors)."

ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="NAME|FILE", help=MODEL_HELP)]
ModelsOption = Annotated[
    list[str] | None, typer.Option("--model", "-m", metavar="NAME|FILE", help=f"{MODEL_HELP} Repeat for several.")
]
ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        metavar="auto|N",
        help="Estimate the rain at 1/N of the size and take it from the full-size image, for streaks that are N times "
        "as wide as in benchmarks, 1 to 16; auto: chosen for each image.",
        callback=_checked_scale,
    ),
]
TileOption = Annotated[
    str,
    typer.Option(
        "--tile",
        metavar="auto|none|N",
        help="Side of the tiles in pixels, best 192 or more; none: no tiles; auto: as large as the free memory allows.",
        callback=_checked_tile,
    ),
]
OverlapOption = Annotated[
    int | None, typer.Option("--overlap", metavar="N", min=0, help="Pixels that neighboring tiles share. Default: 32.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:N]|mps", help="Device that the network runs on.")
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        help="auto: fp32 on a CPU, bf16 or fp16 on GPUs that support it.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=1024, help="CPU threads of the network. Default: torch's choice."
    ),
]
TtaOption = Annotated[
    bool, typer.Option("--tta", help="Average over the image and its 3 flips: a little better, 4 times slower.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print more about each image.")]
