"""The state of training, which checkpoints save."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from operator import le
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from drsformer.ablations import build
from drsformer.checkpoint import describe
from drsformer.config import DRSformerConfig
from drsformer.errors import CheckpointError
from drsformer.fast_training import optimize_for_training
from drsformer.inference import half_precision
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError
from drsformer_cli.training import toml_config
from drsformer_cli.training.optimizers import make_optimizers

if TYPE_CHECKING:
    from drsformer.model import DRSformer
    from drsformer_cli.training.config import Config, ModelSection


@dataclass
class State:
    """The state of a run between two steps.

    Sampling has no state: a sample depends only on the seed, the step and its index.

    Attributes:
        model: The network that is trained.
        ema: Exponential moving average of the network; None: not used.
        optimizers: The optimizers; each parameter is in exactly one. Their learning rate depends only on the step.
        scaler: Gradient scaler for fp16.
        step: Number of finished steps.
        best: Highest validation PSNR so far, in dB.
        loss: Running mean of the loss; None before the first step.
        loss_name: Name of that loss.
        lowest_loss: Lowest running mean of that loss so far.
    """

    model: DRSformer
    ema: DRSformer | None
    optimizers: tuple[torch.optim.Optimizer, ...]
    scaler: torch.amp.GradScaler
    step: int = 0
    best: float = -math.inf
    loss: float | None = None
    loss_name: str = ""
    lowest_loss: float = math.inf

    @property
    def result(self) -> DRSformer:
        """The network that is validated and saved as best.pth."""
        return self.model if self.ema is None else self.ema

    def content(self, run: dict[str, Any]) -> dict[str, Any]:
        """The content of a checkpoint, which `derain` can also read; `run` is the resolved configuration."""
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        training = {
            "step": self.step,
            "best": self.best,
            "loss": self.loss,
            "loss_name": self.loss_name,
            "lowest_loss": self.lowest_loss,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "random": random,
            "run": run,
        }
        averaged = {} if self.ema is None else {"params_ema": _weights(self.ema)}
        return {"params": _weights(self.model), **averaged, **describe(self.model), "training": training}

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the state from the content of a checkpoint.

        Raises:
            UsageError: The checkpoint belongs to another network or optimizer.
        """
        stored: dict[str, Any] = {key: content[key] for key in ("config", "ablation") if key in content}
        stored["config"] = DRSformerConfig.from_dict(
            stored["config"]
        ).to_dict()  # adds settings that are newer than the file
        if changes := toml_config.differences(stored, describe(self.model)):
            raise UsageError(f"--resume: the checkpoint is of another network: {'; '.join(changes)}")
        training = content["training"]
        optimizers = training.get("optimizers", ())
        if len(optimizers) != len(self.optimizers):
            raise UsageError("--resume: the checkpoint is of another training.optimizer")
        self.model.load_state_dict(content["params"])
        if self.ema is not None:
            self.ema.load_state_dict(content.get("params_ema", content["params"]))
        for optimizer, kept in zip(self.optimizers, optimizers, strict=True):
            groups = optimizer.state_dict()["param_groups"]  # the settings of this run, not those of the checkpoint
            optimizer.load_state_dict({"state": kept["state"], "param_groups": groups})
        self.scaler.load_state_dict(training["scaler"])
        torch.set_rng_state(training["random"]["cpu"])
        if torch.cuda.is_available() and "cuda" in training["random"]:
            torch.cuda.set_rng_state(training["random"]["cuda"])
        self.step, self.best = training["step"], training["best"]
        self.loss, self.lowest_loss = training["loss"], training["lowest_loss"]
        self.loss_name = training.get("loss_name", training["run"]["training"]["loss"])

    def average(self, decay: float) -> None:
        """Update the moving average with the current weights."""
        if self.ema is not None:
            for averaged, present in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                averaged.lerp_(present.detach(), 1 - decay)

    def finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.result.parameters())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}


def make_state(config: Config, device: torch.device, resumed: dict[str, Any] | None = None) -> State:
    """The state before the first step, or that of the checkpoint `resumed`.

    Raises:
        UsageError: The checkpoint, or the weights to start from, belong to another network or optimizer.
        CheckpointError: The weights to start from cannot be read.
    """
    torch.manual_seed(config.seed)
    section = config.model
    model = build(section.network(), section.ablation.ablation())
    if section.weights and resumed is None:
        _start(model, section)
    model.to(device)
    if device.type == "cpu":
        optimize_for_training(model)
    else:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
    training = config.training
    ema = copy.deepcopy(model).requires_grad_(requires_grad=False) if training.ema else None
    in_fp16 = half_precision(training.precision, device) is torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=in_fp16)
    state = State(model, ema, make_optimizers(model, training), scaler)
    if resumed is not None:
        state.restore(resumed)
    return state


def _start(model: DRSformer, section: ModelSection) -> None:
    """Load the weights that the configuration names."""
    try:
        start = zoo.load_model(section.weights).network
    except CheckpointError as error:
        raise CheckpointError(f"model.weights: {error}") from None
    expected = describe(model)
    if section.grow and all(map(le, start.config.num_blocks, model.config.num_blocks)):
        expected["config"]["num_blocks"] = start.config.num_blocks
    if changes := toml_config.differences(describe(start), expected):
        raise UsageError(f"model.weights: {section.weights} is another network: {'; '.join(changes)}")
    # Blocks that are not in the weights start as the identity.
    for key in model.load_state_dict(start.state_dict(), strict=not section.grow).missing_keys:
        if ".project_out." in key:
            nn.init.zeros_(model.get_parameter(key))
