"""Options that several commands share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args

import typer

from drsformer_cli.formats import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer.inference import Scale, TileSize

N = TypeVar("N", int, float)


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """A parser for options that takes one of some words, in any case."""

    def parse(text: str) -> str:
        if found := next((word for word in allowed if word.casefold() == text.casefold()), None):
            return found
        raise typer.BadParameter(f"{text!r} is not {listed(list(allowed), 'or')}")

    return parse


def number(kind: type[N], least: N, most: N | None = None) -> Callable[[str], N]:
    """A parser for options that takes a number in a range, both ends included."""
    noun = "a whole number" if kind is int else "a number"
    expected = f"{noun} of at least {least}" if most is None else f"{noun} from {least} to {most}"

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= (math.inf if most is None else most):  # NaN is in no range
            raise typer.BadParameter(f"{text!r} is not {expected}")
        return value

    return parse


def parse_scale(text: str) -> Scale:
    """The value of --scale: `auto` or a number."""
    if text.lower() == "auto":
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
    if text.lower() == "auto":
        return "auto"
    if text.lower() == "none":
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


def _quiet_or_verbose(context: typer.Context, value: bool) -> bool:
    if value and (context.params.get("quiet") or context.params.get("verbose")):  # the other one: it came first
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    return value


MODEL_HELP = "Name from `drsformer download --list`, downloaded if it is missing, or a checkpoint (.pth, .safetensors)."
_SCALE_HELP = (
    "Estimate the rain at 1/N of the size and take it from the full-size image, for streaks that are N times as wide "
    "as in benchmarks, 1 to 16; auto: chosen for each image."
)

# Defaults are part of the help, so that all are printed in one way: Typer would print only those that are not None.
ModelOption = Annotated[
    str,
    typer.Option(*("--model", "-m"), metavar="NAME|FILE", help=f"{MODEL_HELP} Default: general.", show_default=False),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(*("--model", "-m"), metavar="NAME|FILE", help=f"{MODEL_HELP} Repeat for several. Default: general."),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        metavar="auto|N",
        help=f"{_SCALE_HELP} Default: auto.",
        callback=_checked_scale,
        show_default=False,
    ),
]
BenchmarkScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        metavar="auto|N",
        help=f"{_SCALE_HELP} Default: 1, as in benchmarks.",
        callback=_checked_scale,
        show_default=False,
    ),
]
TileOption = Annotated[
    str,
    typer.Option(
        "--tile",
        metavar="auto|none|N",
        help="Side of the tiles in pixels, best 192 or more; none: no tiles; auto: as large as the free memory "
        "allows. Default: auto.",
        callback=_checked_tile,
        show_default=False,
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(
        "--overlap", metavar="N", parser=number(int, 0), help="Pixels that neighboring tiles share. Default: 32."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]|mps",
        help="Device that the network runs on. Default: auto.",
        show_default=False,
    ),
]
_Precision = Literal["auto", "fp32", "bf16", "fp16"]
PrecisionOption = Annotated[
    _Precision,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|fp16",
        parser=one_of(get_args(_Precision)),
        help="auto: fp32 on a CPU, bf16 or fp16 on GPUs that support it. Default: auto.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        parser=number(int, 1, 1024),
        help="CPU threads of the network. Default: torch's choice.",
    ),
]
TtaOption = Annotated[
    bool, typer.Option("--tta", help="Average over the image and its 3 flips: a little better, 4 times slower.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", callback=_quiet_or_verbose)]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print more about each image.", callback=_quiet_or_verbose)
]
