"""The published models and the parameter files of the metrics, and what `--model` loads."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from drsformer import pretrained
from drsformer_cli.datasets import DATASETS
from drsformer_cli.downloads import cache, http
from drsformer_cli.downloads.cache import PublishedFile
from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drsformer.model import DRSformer


@dataclass(frozen=True, kw_only=True)
class PublishedModel(PublishedFile):
    """A published checkpoint.

    Attributes:
        parameters: Number of parameters.
        trained_on: Training set, or a description of several.
        tested_on: Test set of the scores.
        psnr: Reported PSNR in dB.
        ssim: Reported SSIM.
        protocol: Protocol of the scores, uint8-Y or float-Y.
        paper: Address of the paper that reports the scores.
        bundled: The file in this package; None: it is downloaded.
    """

    parameters: int
    trained_on: str
    tested_on: str
    psnr: float
    ssim: float | None
    protocol: str
    paper: str
    bundled: Path | None = None

    @property
    def path(self) -> Path:
        """Path of the checkpoint, whether or not it exists."""
        return self.bundled or super().path


DEFAULT_MODEL = "general"

_PAPER = "https://arxiv.org/abs/2303.11950"

# Parameters, and the range of bytes of a float32 file, however it is saved; the published ones have 134.6 and 130.4 MB.
_VARIANTS = {"mefc": (33_655_424, (128_000_000, 142_000_000)), "plain": (32_610_304, (124_000_000, 138_000_000))}

# Name, data set, variant, Google Drive id.
_AUTHORS = (
    ("rain200l", "Rain200L", "plain", "1Mm6hWdpjo9eEoNlCHAxd03etY3ks-zyy"),
    ("rain200h", "Rain200H", "mefc", "1mt8ydHE540_qtytger4dVcv6xqZ5YMhh"),
    ("did", "DID-Data", "mefc", "1U_UEGPhYRJ-G10-Dypr7FbwDRGmroAHC"),
    ("ddn", "DDN-Data", "mefc", "1kwPOfufdUf9bCZ-OvwIziw-6ZRdcT2RX"),
    ("spa", "SPA-Data", "plain", "1i33Zmb1YXdLcalJOIP7YTegjnuTsVcC1"),
)


def _published(name: str, data: str, variant: str, drive_id: str) -> PublishedModel:
    parameters, size = _VARIANTS[variant]
    dataset = DATASETS[data]
    _, psnr, ssim = dataset.reported[0]
    return PublishedModel(
        name=name,
        file=f"weights/{name}.pth",
        size=size,
        license="none stated by the authors, assume research use",
        urls=(http.drive_url(drive_id),),
        page=f"https://drive.google.com/file/d/{drive_id}/view",
        variant=variant,
        parameters=parameters,
        trained_on=data,
        tested_on=data,
        psnr=psnr,
        ssim=ssim,
        protocol=dataset.protocol,
        paper=_PAPER,
    )


_GENERAL = PublishedModel(
    name="general",
    file="",  # bundled: the fields about downloads are empty
    size=(0, 0),
    license="MIT",
    urls=(),
    page="",
    variant="half",
    parameters=4_798_220,
    trained_on="mixed rain",
    tested_on="Rain100L",
    psnr=36.15,
    ssim=0.9678,
    protocol="uint8-Y",
    paper="",
    bundled=pretrained.GENERAL,
)

MODELS: Mapping[str, PublishedModel] = MappingProxyType(
    {row.name: row for row in (_GENERAL, *(_published(*facts) for facts in _AUTHORS))}
)
"""Every model by name."""

_BASICSR = "https://raw.githubusercontent.com/XPixelGroup/BasicSR/8d56e3a045f9fb3e1d8872f92ee4a4f07f886b0a"
_OPENCV = "https://raw.githubusercontent.com/opencv/opencv_contrib/2a5154a4479e841aa1282ef83d139c4870d17b8f"


_PARAMETER_FILES = (
    (
        f"{_BASICSR}/basicsr/metrics/niqe_pris_params.npz",
        11_850,
        "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
    ),
    (
        f"{_OPENCV}/modules/quality/samples/brisque_model_live.yml",
        567_815,
        "4c44c7eec9e5139830c0bb0e4a044c9cd351ba5bbc9e3798beca3243e2782ff4",
    ),
    (
        f"{_OPENCV}/modules/quality/samples/brisque_range_live.yml",
        1_356,
        "a18427f4f7ad087524bd0d63389649a3899b51ca6d44a4d5f8d8171f1f914a9c",
    ),
)


def _parameter_file(url: str, size: int, sha256: str) -> PublishedFile:
    name = url.rpartition("/")[2]
    return PublishedFile(
        name=name, file=f"metrics/{name}", size=(size, size), license="Apache-2.0", urls=(url,), page=url, sha256=sha256
    )


PARAMETER_FILES: Mapping[str, PublishedFile] = MappingProxyType(
    {row.name: row for row in (_parameter_file(*facts) for facts in _PARAMETER_FILES)}
)
"""The parameter files of NIQE and BRISQUE by file name."""

ALL_METRICS = "metrics"
"""The name for all parameter files in `drsformer download`."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory.

    Attributes:
        network: The network, in evaluation mode, on its device.
        checkpoint: The file that it was loaded from.
        training: What the checkpoint says about its training; None if nothing.
    """

    network: DRSformer
    checkpoint: Path
    training: object


def load_model(model: str, *, device: str = "cpu", threads: int | None = None, quiet: bool = False) -> LoadedModel:
    """Load the model that `--model` names, downloading it first if it is missing.

    Args:
        model: A name of `MODELS`, the name of another checkpoint in the cache, or a checkpoint file.
        device: Device for the network, see `resolve_device`.
        threads: CPU threads for the network. None: torch chooses.
        quiet: Whether a download hides progress and license.

    Raises:
        CheckpointError: The file is damaged or not a checkpoint of DRSformer.
        DownloadError: The model cannot be downloaded, or its cached file has changed.
        UsageError: There is no such model, file or device.
    """
    checkpoint = find_checkpoint(model, quiet=quiet)

    from drsformer.checkpoint import load_with_training
    from drsformer.memory import keep_freed_memory
    from drsformer_cli.device import resolve_device, set_threads

    keep_freed_memory()
    set_threads(threads)
    network, training = load_with_training(checkpoint)
    return LoadedModel(network.to(resolve_device(device)), checkpoint, training)


def find_checkpoint(model: str, *, quiet: bool = False) -> Path:
    """The checkpoint that `load_model` loads, downloaded first if it is missing.

    Raises:
        UsageError: There is no such model or file.
        DownloadError: The model cannot be downloaded, or its cached file has changed.
    """
    if model in MODELS:
        row = MODELS[model]
        return row.bundled or cache.obtain(row, quiet=quiet)
    path = pretrained.find_checkpoint(model)
    if path is None:
        raise UsageError(f"{model}: no such file, and no model of that name; {_suggestion(model, MODELS)}")
    return path


def parameter_file(name: str, *, quiet: bool = False) -> Path:
    """A file of `PARAMETER_FILES`, downloaded first if it is missing.

    Raises:
        DownloadError: It cannot be downloaded, or its cached file has changed.
    """
    return cache.obtain(PARAMETER_FILES[name], quiet=quiet)


def rows(names: list[str]) -> list[PublishedFile]:
    """The models and parameter files with these names, each once.

    Raises:
        UsageError: A name is unknown.
    """
    known: dict[str, list[PublishedFile]] = {name: [row] for name, row in {**MODELS, **PARAMETER_FILES}.items()}
    known[ALL_METRICS] = list(PARAMETER_FILES.values())
    for name in names:
        if name not in known:
            raise UsageError(f"{name}: no model of that name; {_suggestion(name, known)}")
    return list(dict.fromkeys(row for name in names for row in known[name]))


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    """The most similar name, and all names."""
    similar = get_close_matches(Path(name).stem.lower(), known, n=1)
    question = f"did you mean {similar[0]}? " if similar else ""
    return f"{question}known: {', '.join(known)}"
