"""`drsformer train`, as a user runs it: runs, resuming, signals, processes, and what goes wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import on_two_ranks, photo
from PIL import Image

import drsformer
from drsformer import files, load_checkpoint
from drsformer_cli import images, signals
from drsformer_cli.training import loop, run_folder

COMMAND = [sys.executable, "-m", "drsformer_cli", "train", "-c", "run.toml", "--threads", "1"]

CONFIG = """
[model]
preset = "small"
dim = 8
num_blocks = [1, 1, 1, 1]
num_heads = [1, 1, 1, 1]

[data]
clean = "photos"
patch = 16
workers = 0
sources.rendered = { kind = "rendered" }
sources.pairs = { kind = "paired", path = "pairs" }

[training]
steps = 6
batch = 2
lr = 1e-3
constant = 3
clip = 0.1
ema = 0.9

[validation]
every = 6
paired.pairs = { path = "pairs" }
crop = 16
images = 2

[output]
log_every = 1
save_every = 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photos, pairs and run.toml; the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "pairs/input", "pairs/target"):
        Path(name).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(photo(seed=i)).save(f"photos/{i}.png")
        Image.fromarray(photo(seed=i, noise=0.2)).save(f"pairs/input/{i}.png")
        Image.fromarray(photo(seed=i)).save(f"pairs/target/{i}.png")
    Path("run.toml").write_text(CONFIG)
    return tmp_path


def train(run, *arguments):
    return run("train", "-c", "run.toml", "-o", "out", *arguments)


def rows(name="out"):
    return [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]


def losses(name="out"):
    return {row["step"]: row["loss"] for row in rows(name) if "loss" in row}


def checkpoints(name="out"):
    return sorted(path.name for path in Path(name).glob("step_*.pth"))


def content(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    """Whether two checkpoints hold the same values, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_run_and_what_it_leaves_behind(run, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("drsformer.inference.choose_scale", lambda *_: pytest.fail("validation is at scale 1"))
        answer = train(run, "--set", "validation.every=3")
    assert answer.code == 0
    assert answer.out == "out: done, step_00000006.pth\n"
    assert "batches of 2 patches of 16x16 pixels, loss l1, on cpu" in answer.err
    assert checkpoints() == ["step_00000002.pth", "step_00000004.pth", "step_00000006.pth"]
    assert sorted(losses()) == [1, 2, 3, 4, 5, 6]
    measured = [row for row in rows() if "psnr" in row]
    assert [row["step"] for row in measured] == [3, 6]
    assert set(measured[0]) == {"step", "psnr", "ssim", "psnr_input", "psnr pairs"}
    assert images.size(Path("out/curves.png")) == (640, 720)
    assert images.size(Path("out/validation/step_00000006.png"))[0] >= 3 * 16 + 2 * 4
    for name in ("best.pth", "step_00000006.pth"):
        assert run("derain", "photos/0.png", "-o", f"{name}.png", "-m", f"out/{name}").code == 0
    best = content("out/best.pth")
    assert set(best) == {"params", "config", "training"}
    assert best["training"]["run"]["training"]["steps"] == 6
    assert run("train", "-c", "out/config.toml", "-o", "again", "--check").code == 0


def test_the_configuration_itself_is_not_replaced(run, folder):
    Path("mine").mkdir()
    shutil.copy("run.toml", "mine/config.toml")
    before = Path("mine/config.toml").read_bytes()
    answer = run("train", "-c", "mine/config.toml", "-o", "mine")
    assert answer.code == 2
    assert answer.err == (
        "drsformer: --output mine: the run would replace mine/config.toml, its configuration; expected a new folder\n"
    )
    assert Path("mine/config.toml").read_bytes() == before
    assert [path.name for path in Path("mine").iterdir()] == ["config.toml"]


def test_half_of_the_best(run, folder):
    assert train(run, "--set", "output.half=true").code == 0
    assert {tensor.dtype for tensor in content("out/best.pth")["params"].values()} == {torch.float16}


def test_only_the_latest_are_kept(run, folder):
    assert train(run, "--set", "output.keep=1", "--set", "output.save_every=1").code == 0
    assert checkpoints() == ["step_00000006.pth"]


def test_resumed_is_bit_for_bit_uninterrupted(run, folder):
    settings = [
        "training.steps=20",
        "training.constant=8",
        "training.optimizer=muon",
        "data.workers=2",
        "output.save_every=20",
        "validation.every=7",
        "stages=[{after=5, patch=24, batch=4}, {after=14, batch=2, loss='rmse', weights={rendered=3}}]",
    ]
    settings = [part for setting in settings for part in ("--set", setting)]
    assert run("train", "-c", "run.toml", "-o", "whole", *settings).code == 0
    real = loop.TrainerStep.__call__

    def interrupted(self, step, batch):
        if step in (8, 10):
            signal.raise_signal(signal.SIGTERM if step == 8 else signal.SIGINT)
        return real(self, step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TrainerStep, "__call__", interrupted)
        assert train(run, *settings).code == 143
        assert checkpoints()[-1] == "step_00000008.pth"
        assert train(run, "--resume", *settings).code == 130
    assert checkpoints()[-1] == "step_00000010.pth"
    answer = run("train", "-o", "out", "--resume")  # the configuration is the run's own
    assert answer.code == 0
    assert "changed" not in answer.err
    assert "resuming after step 10 of 20: batches of 4 patches of 24x24 pixels, loss l1, on cpu" in answer.err
    assert "step 14: next stage: batches of 2 patches of 24x24 pixels, loss rmse" in answer.err
    assert losses() == losses("whole")
    assert same(content("out/step_00000020.pth"), content("whole/step_00000020.pth"))


def test_the_signal_of_a_launcher_after_ctrl_c_stops_no_saving(run, folder, monkeypatch):
    real = loop.TrainerStep.__call__

    def interrupted(self, step, batch):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return real(self, step, batch)

    monkeypatch.setattr(loop.TrainerStep, "__call__", interrupted)
    assert train(run).code == 130
    assert checkpoints() == ["step_00000002.pth", "step_00000003.pth"]


def test_a_later_signal_stops_training_at_once(run, folder, monkeypatch):
    real = loop.TrainerStep.__call__

    def interrupted(self, step, batch):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(signals, "_SAME_REQUEST", -1)
            signal.raise_signal(signal.SIGTERM)
        return real(self, step, batch)

    monkeypatch.setattr(loop.TrainerStep, "__call__", interrupted)
    assert train(run).code == 143
    assert checkpoints() == ["step_00000002.pth"]  # of the configuration, not of the signal


def test_a_changed_configuration_is_said_and_used(run, folder):
    assert train(run).code == 0
    changed = ("training.steps=8", "training.lr=1e-4", "training.weight_decay=0.5")
    answer = train(run, "--resume", *(part for setting in changed for part in ("--set", setting)))
    assert answer.code == 0
    (optimizer,) = content("out/step_00000008.pth")["training"]["optimizers"]
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.5}
    assert "changed since the checkpoint: training.steps: 6 -> 8" in answer.err
    assert "changed since the checkpoint: training.lr: 0.001 -> 0.0001" in answer.err
    assert sorted(losses()) == list(range(1, 9))
    answer = train(run, "--resume", "--set", "model.dim=16")
    assert (answer.code, answer.err.splitlines()[-1]) == (
        2,
        "drsformer: --resume: the checkpoint is of another network: config.dim: 8 -> 16",
    )
    answer = train(run, "--resume", "--set", "training.optimizer=muon")
    assert answer.code == 2
    assert answer.err.endswith("drsformer: --resume: the checkpoint is of another training.optimizer\n")


def test_a_finished_run_resumes_to_nothing(run, folder):
    assert train(run).code == 0
    before = content("out/step_00000006.pth")
    answer = train(run, "--resume")
    assert answer.code == 0
    assert "nothing left to do: 6 of 6 steps are done (training.steps)\n" in answer.err
    assert same(before, content("out/step_00000006.pth"))


def test_training_starts_from_given_weights(run, folder, tiny_file):
    settings = ("--set", "training.steps=1", "--set", "training.lr=1e-9", "--set", "training.final_lr=0")
    assert train(run, *settings, "--set", f"model.weights={tiny_file}").code == 2  # other heads
    settings += ("--set", "model.num_heads=[1, 2, 4, 8]", "--set", f"model.weights={tiny_file}")
    assert train(run, *settings).code == 0
    before, after = load_checkpoint(tiny_file).state_dict(), load_checkpoint("out/step_00000001.pth").state_dict()
    assert all((before[key] - after[key]).abs().max() < 1e-6 for key in before)
    gone = ("--set", "training.steps=2", "--set", "model.weights=gone.pth")
    assert train(run, *settings, *gone, "--resume").code == 0  # which has no need of them


def test_accumulation_changes_no_step(run, folder):
    assert train(run).code == 0
    assert run("train", "-c", "run.toml", "-o", "parts", "--set", "training.accumulate=2").code == 0
    assert list(losses("parts").values()) == pytest.approx(list(losses().values()), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        ["model.ablation.feed_forward=gdfn", "model.ablation.attention=dense"],
        ["training.loss=charbonnier", "training.clip=0", "training.ema=0", "training.warmup=2"],
        ["training.precision=bf16", "data.mixup=1"],
        ["training.precision=fp16", "training.optimizer=muon", "training.loss=rmse"],
    ],
)
def test_other_settings(run, folder, settings):
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert train(run, *arguments, "--set", "training.steps=2").code == 0
    assert np.isfinite(list(losses().values())).all()
    assert run("derain", "photos/0.png", "-o", "x.png", "-m", "out/best.pth").code == 0


def test_check_tries_and_leaves_only_samples(run, folder):
    answer = train(run, "--check")
    assert answer.code == 0
    assert "from step 1: batches of 2 patches of 16x16 pixels, loss l1; a step takes" in answer.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["batch.png"]


def test_every_mistake_is_said_at_once(run, folder):
    answer = train(run, "--set", "training.stepz=3", "--set", "data.patch=9", "--set", "training.lr=high")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "drsformer: data.patch: expected a multiple of 8, not 9",
        "drsformer: training.stepz: unknown key; did you mean steps?",
        'drsformer: training.lr: expected a number from 1e-12 to 10, not "high"',
        "drsformer: run.toml: 3 mistakes",
    ]
    assert not Path("out").exists()


def test_missing_folders_are_named_with_wrong_values(run, folder):
    answer = train(run, "--set", "data.patch=9", "--set", "data.clean=gone", "--set", "validation.paired.x.path=lost")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "drsformer: data.patch: expected a multiple of 8, not 9",
        "drsformer: data.clean: no such folder: gone; --set data.clean=FOLDER names your clean images",
        "drsformer: validation.paired.x.path: lost: no such folder",
        "drsformer: run.toml: 3 mistakes",
    ]
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("settings", "code"),
    [(["data.clean=gone"], 2), (["model.weights=gone.pth"], 2), (["model.num_heads=[1,2,4,8]"], 2)],
)
@pytest.mark.parametrize("extra", [[], ["--check"]])
def test_a_refused_run_leaves_no_folder(run, folder, tiny_file, settings, code, extra):
    if code == 2 and "num_heads" in settings[0]:
        settings = [f"model.weights={tiny_file}"]  # whose heads are others
    answer = train(run, *(part for setting in settings for part in ("--set", setting)), *extra)
    assert answer.code == code
    assert not Path("out").exists()


def test_an_image_that_goes_bad_is_replaced_and_said_once(run, folder):
    """Whose head is fine, which is all that is read at the start with data.decode=false."""
    path = Path("photos/0.png")
    path.write_bytes(path.read_bytes()[:1500])
    settings = ["data.decode=false", "data.cache=0", "data.sources.pairs.weight=0", "validation.every=0"]
    settings = [part for setting in settings for part in ("--set", setting)]
    answers = [run("train", "-c", "run.toml", "-o", name, *settings) for name in ("out", "again")]
    for answer in answers:
        assert answer.code == 0
        assert answer.err.count("photos/0.png: damaged image") == 1
    assert losses("out") == losses("again")


def test_wrong_usage(run, folder):
    for arguments, message in (
        (["-o", "out"], "--config is missing"),
        (["-c", "nothing.toml"], "no such file, and no recipe of that name"),
        (["-c", "run.toml", "-o", "out", "--resume"], "no checkpoint in out"),
        (["-c", "run.toml", "-o", "run.toml"], "--output run.toml: cannot write there"),
        (["-c", "run.toml", "--set", "training.steps"], "expected key=value"),
        (["-c", "run.toml", "--device", "cuda:7"], "--device cuda:7"),
    ):
        answer = run("train", *arguments)
        assert answer.code == 2
        assert message in answer.err.splitlines()[-1]


def test_a_run_is_never_overwritten(run, folder):
    assert train(run, "--set", "training.steps=1").code == 0
    answer = train(run)
    assert (answer.code, answer.err) == (2, "drsformer: --output out: already holds a run; --resume resumes it\n")


def break_at(monkeypatch, step, change):
    """Change the network after a step."""
    real = loop.TrainerStep.__call__

    def broken(self, number, batch):
        loss = real(self, number, batch)
        if number == step:
            with torch.no_grad():
                change(self.state.model)
        return loss

    monkeypatch.setattr(loop.TrainerStep, "__call__", broken)


def test_nan_stops_before_it_is_saved(run, folder, monkeypatch):
    break_at(monkeypatch, 4, lambda model: model.output.weight.fill_(float("nan")))
    answer = train(run, "--set", "training.ema=0")
    assert answer.code == 1
    assert "weights are not finite after step 4: lower training.lr" in answer.err
    assert checkpoints() == ["step_00000002.pth"]


def test_a_loss_that_is_no_number_stops(run, folder, monkeypatch):
    break_at(monkeypatch, 3, lambda model: model.output.weight.fill_(float("nan")))
    answer = train(run, "--set", "validation.every=0")
    assert answer.code == 1
    assert "the loss is nan at step 4: lower training.lr" in answer.err


def test_collapse_is_noticed(run, folder, monkeypatch):
    break_at(monkeypatch, 2, lambda model: model.output.weight.zero_())
    settings = ("--set", "training.lr=1e-12", "--set", "training.final_lr=0", "--set", "validation.every=3")
    answer = train(run, "--set", "training.ema=0", *settings)
    assert answer.code == 1
    assert "the network collapsed: at step 3 every validation image keeps the PSNR of its rainy input" in answer.err
    assert checkpoints() == ["step_00000002.pth"]


def test_divergence_is_noticed(run, folder, monkeypatch):
    monkeypatch.setattr(loop, "SETTLED", 0)
    break_at(monkeypatch, 3, lambda model: model.output.weight.mul_(1e4))
    answer = train(run, "--set", "validation.every=0")
    assert answer.code == 1
    assert "training diverged: at step" in answer.err


def test_a_full_disk_keeps_what_is_there(run, folder, monkeypatch):
    real = files.atomic_write

    def full(path, **settings):
        if Path(path).name == "step_00000004.pth":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, **settings)

    monkeypatch.setattr(run_folder, "atomic_write", full)
    answer = train(run)
    assert answer.code == 0
    assert "checkpoint of step 4 not saved: No space left on device; earlier ones are kept" in answer.err
    assert checkpoints() == ["step_00000002.pth", "step_00000006.pth"]


def test_a_full_disk_at_the_end_is_a_failure(run, folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_folder.RunFolder, "save", full)
    answer = train(run)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("drsformer: out: checkpoint of step 6 not saved")


def test_a_damaged_checkpoint_costs_one_interval(run, folder):
    assert train(run).code == 0
    Path("out/step_00000006.pth").write_bytes(b"PK\x03\x04")
    Path("out/.0123456789abcdef.part").write_bytes(b"left by kill -9")
    answer = train(run, "--resume")
    assert answer.code == 0
    assert "step_00000006.pth: not a checkpoint" in answer.err
    assert not list(Path("out").glob(".*.part"))
    assert sorted(losses()) == [1, 2, 3, 4, 5, 6]


def wait_for(path, process, seconds=60):
    for _ in range(seconds * 20):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert path.exists()


def test_a_killed_run_resumes(run, folder):
    settings = ["--set", "training.steps=100000", "--set", "output.save_every=1", "--set", "validation.every=0"]
    with subprocess.Popen([*COMMAND, "-o", "out", *settings], stderr=subprocess.PIPE) as process:
        wait_for(Path("out/step_00000003.pth"), process)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    latest = int(Path(checkpoints()[-1]).stem.removeprefix("step_"))
    logged = max(losses())
    assert logged - latest <= 1  # an interval
    answer = train(run, "--resume", "--set", f"training.steps={latest + 1}", *settings[2:])
    assert answer.code == 0
    assert checkpoints()[-1] == f"step_{latest + 1:08d}.pth"


@pytest.mark.xdist_group("ranks")
def test_two_processes_train_as_one(run, folder):
    """The same global batch: same losses, same weights, and a run of one process resumes with two."""
    settings = ["--set", "training.steps=4", "--set", "data.sources.pairs.weight=2"]
    assert run("train", "-c", "run.toml", "-o", "one", *settings).code == 0
    assert run("train", "-c", "run.toml", "-o", "two", "--set", "training.steps=2", *settings[2:]).code == 0
    ranks = on_two_ranks("train", "-c", "run.toml", "-o", "two", "--resume", *settings)
    said = [rank.err for rank in ranks]
    assert [rank.code for rank in ranks] == [0, 0], said
    assert "batches of 2 patches of 16x16 pixels, 1 at a time in each of 2 processes, loss l1" in said[0]
    assert "Warning" not in said[0] + said[1]
    assert said[1] == ""
    assert list(losses("two").values()) == pytest.approx(list(losses("one").values()), rel=1e-4)
    one, two = (content(f"{name}/step_00000004.pth")["params"] for name in ("one", "two"))
    assert all((one[key] - two[key]).abs().max() < 1e-4 for key in one)
    measured = [[row["psnr"] for row in rows(name) if "psnr" in row][-1] for name in ("one", "two")]
    assert measured[0] == pytest.approx(measured[1], abs=0.01)


def test_a_batch_that_cannot_be_shared_is_refused(run, folder, monkeypatch):
    monkeypatch.setattr("drsformer_cli.commands.train.Ranks", FakeRanks)
    answer = run("train", "-c", "run.toml", "-o", "other", "--set", "training.batch=3")
    assert answer.code == 2
    assert "3 cannot be split among 2 processes" in answer.err


class FakeRanks:
    """Rank 0 of two, without communication."""

    is_rank_0, world_size = True, 2

    def on_rank_0(self, function):
        return function()


def test_general_is_trained_from_ones_own_photos(run, folder):
    """The one command of the README, where none of the developers' data is."""
    small = ("--set", "training.steps=1", "--set", "data.patch=16", "--set", "validation.images=2")
    answer = run("train", "-c", "general", "--set", "data.clean=photos", "--set", "validation.crop=16", *small)
    assert answer.code == 0
    left_out = [line for line in answer.err.splitlines() if "left out" in line]
    assert len(left_out) == 1
    assert left_out[0].startswith("left out, since these folders do not exist: ../shared/data/rain800/train, ")
    assert "downpour: 8% of the samples, from 2 clean images" in answer.err
    assert load_checkpoint("runs/general/best.pth").config == drsformer.PRESETS["half"]


def test_overfitting_four_pairs(run, folder, shared):
    """Some steps on four small pairs; the whole way, 35 dB, takes minutes."""
    Path("four").mkdir()
    for name in ("1.jpg", "10.jpg", "100.jpg", "101.jpg"):
        shutil.copy(shared / "data" / "rain800" / "train" / name, "four")
    Path("four.toml").write_text(
        '[model]\npreset = "small"\ndim = 16\nnum_blocks = [1, 1, 1, 1]\n'
        '[data]\npatch = 32\ncrop = "center"\nflips = false\nturns = false\nworkers = 0\n'
        'sources.four = { kind = "paired", path = "four", side_by_side = "clean-left" }\n'
        "[training]\nsteps = 20\nbatch = 4\nlr = 2e-3\nwarmup = 5\nclip = 0\n"
        '[validation]\nevery = 20\npaired.four = { path = "four", side_by_side = "clean-left" }\ncrop = 32\n'
    )
    assert run("train", "-c", "four.toml", "-o", "out").code == 0
    (measured,) = (row for row in rows() if "psnr" in row)
    assert measured["psnr"] > measured["psnr_input"] + 0.5


def test_two_runs_into_one_folder(run, folder):
    Path("out").mkdir()
    with run_folder.RunFolder(Path("out")).alone():
        answer = train(run)
    assert answer.code == 2
    assert "another process is training into it" in answer.err
    assert train(run).code == 0


def test_other_folders_are_not_written_into(run, folder):
    answer = run("train", "-c", "run.toml", "-o", "photos")
    assert answer.code == 2
    assert "holds other files; expected a new folder, or that of a run" in answer.err
    assert sorted(path.name for path in Path("photos").iterdir()) == ["0.png", "1.png", "2.png"]


def test_no_advice_names_an_option_that_train_lacks(run, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # twice as many are the limit; the images have 2,240
    answer = train(run, "--check")
    assert answer.code == 2
    assert "photos/0.png: 0.00224 megapixels, more than the limit of 0.001" in answer.err
    assert "--max-megapixels" not in answer.err
