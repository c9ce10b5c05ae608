"""derain(): padding, tiles, blending, precision, and smaller tiles when memory runs out."""

import copy
import dataclasses
import itertools
import logging

import numpy as np
import pytest
import torch
from conftest import TINY, photo
from PIL import Image
from torch import nn

import drsformer
from drsformer import ConfigError, DeviceError, DRSformer, ImageError, Restorer, derain, inference, streaks
from drsformer.images import luma
from drsformer.inference import fitting_tile, pad_to_multiple, tile_starts

IDENTITY = nn.Identity()


def random_image(height, width, dtype, seed=0):
    values = np.random.default_rng(seed).random((height, width, 3), np.float32)
    return values if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("tile", "overlap"), [("auto", None), (None, None), (16, 0), (24, 9), (40, None)])
def test_identity_network_returns_every_image_exactly(dtype, tile, overlap):
    for height in range(1, 71, 3):
        image = random_image(height, 1 + height * 37 % 70, dtype, height)
        result = derain(IDENTITY, image, tile=tile, overlap=overlap)
        assert result.dtype == dtype
        assert np.array_equal(result, image), image.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_identity_with_every_other_setting(dtype):
    image = random_image(45, 61, dtype)
    for tta, strength, precision in itertools.product((False, True), (0, 0.3, 1), ("fp32", "auto")):
        result = derain(IDENTITY, image, tile=24, tta=tta, strength=strength, precision=precision)
        assert np.array_equal(result, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(45, 61), (45, 61, 1), (45, 61, 2), (45, 61, 4)])
def test_gray_and_alpha(general, dtype, shape):
    values = np.random.default_rng(0).random(shape, np.float32)
    image = values if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    before = image.copy()
    assert np.array_equal(derain(IDENTITY, image, tile=24), image)

    channels = image.reshape(*shape[:2], -1)
    color = channels[..., :3] if channels.shape[2] == 4 else np.repeat(channels[..., :1], 3, axis=2)
    expected = derain(general, np.ascontiguousarray(color))
    result = derain(general, image)
    assert (result.shape, result.dtype) == (shape, dtype)
    assert np.array_equal(image, before)
    if channels.shape[2] == 4:
        assert np.array_equal(result[..., :3], expected)
    else:
        assert np.array_equal(result.reshape(channels.shape)[..., 0], luma(expected))
    if channels.shape[2] in (2, 4):
        assert np.array_equal(result[..., -1], image[..., -1])


def test_views_of_arrays_are_arrays():
    image = random_image(20, 30, np.float32)[::-1, ::-1]
    assert np.array_equal(derain(IDENTITY, image), image)


def test_whole_image_is_the_plain_pipeline(tiny):
    image = photo(37, 51)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, 5, 0, 3), mode="reflect")
    with torch.inference_mode():
        expected = tiny(x)[0, :, :37, :51].clamp(0, 1).permute(1, 2, 0).numpy()
    # The rearranged network rounds differently, 1e-6 away: a value on the edge of two levels may fall to either.
    difference = derain(tiny, image, tile=None).astype(int) - np.rint(expected * 255)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-3


def test_padding_reflects_then_replicates():
    x = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    assert pad_to_multiple(x)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, *[0] * 27]
    assert pad_to_multiple(x)[0, 0, :, 1].tolist() == [1] * 32
    assert pad_to_multiple(torch.zeros(1, 3, 40, 8)).shape == (1, 3, 40, 32)  # at least four multiples


@pytest.mark.parametrize("overlap", [0, 3, 8, 15])
def test_tiles_are_full_size_cover_and_share_enough(overlap):
    for length in range(1, 200):
        starts = tile_starts(length, 16, overlap)
        if length <= 16:
            assert starts == [0]
            continue
        assert starts[0] == 0
        assert starts[-1] + 16 == length
        assert all(0 < b - a <= 16 - overlap for a, b in itertools.pairwise(starts))


def test_no_seam_on_a_smooth_gradient(general):
    y, x = np.mgrid[0:300, 0:360]
    gradient = np.repeat(((x / 360 + y / 300) / 2)[..., None], 3, axis=2).astype(np.float32)
    result = derain(general, gradient, tile=128)
    inner = slice(16, -16)  # what the network does at the image's own border is no seam
    for axis in (0, 1):
        step = np.diff(result, axis=axis) - np.diff(gradient, axis=axis)
        assert np.abs(step[inner, inner]).max() < 1 / 255


def test_blend_is_smooth_between_tiles_that_disagree():
    class Position(nn.Module):
        """Answers every tile with another constant."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.full_like(x, self.calls % 2)

    result = derain(Position(), np.zeros((64, 100, 3), np.float32), tile=64, overlap=28)
    row = result[0, :, 0]
    assert row[0] == 1
    assert row[-1] == 0
    assert np.all(np.diff(row) <= 0)
    assert np.abs(np.diff(row)).max() < 0.06


class LimitedMemory(nn.Module):
    """An identity for inputs up to so many pixels, out of memory beyond; counts its calls."""

    def __init__(self, limit, error=None):
        super().__init__()
        self.limit, self.calls = limit, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, x):
        self.calls.append(tuple(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.limit:
            raise self.error
        return x * 0.5


@pytest.mark.parametrize("tile", [None, "auto", 256])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_shrinks_the_tile_and_loses_nothing(tile, error, caplog):
    image = random_image(300, 400, np.float32)
    model = LimitedMemory(100 * 100, error)
    restorer = Restorer(model, tile=tile)
    with caplog.at_level(logging.WARNING, "drsformer"):
        result = restorer(image)
    assert np.allclose(result, image * 0.5, atol=1e-7)
    first = len(model.calls)
    assert np.allclose(restorer(image), image * 0.5, atol=1e-7)
    assert all(h * w <= 100 * 100 for h, w in model.calls[first:])  # the lesson is kept for the next image
    assert sum("out of memory" in record.message for record in caplog.records) <= 3


def test_out_of_memory_in_the_middle_of_an_image():
    image = random_image(200, 200, np.float32)

    class Sometimes(LimitedMemory):
        def forward(self, x):
            self.limit = 10**9 if len(self.calls) != 5 else 0
            return super().forward(x)

    assert np.allclose(derain(Sometimes(0), image, tile=64), image * 0.5, atol=1e-7)


def test_out_of_memory_for_the_smallest_tile():
    with pytest.raises(DeviceError, match="out of memory even for a tile of 16"):
        derain(LimitedMemory(0), random_image(30, 40, np.uint8), tile=32)


def test_other_runtime_errors_are_not_mistaken_for_memory():
    with pytest.raises(RuntimeError, match="size mismatch"):
        derain(LimitedMemory(0, RuntimeError("size mismatch")), random_image(9, 9, np.uint8))


class OverflowsInHalf(nn.Module):
    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            return x * float("inf")
        return x


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_is_not_finite_in_half_precision_is_computed_in_float32(precision, caplog):
    image = random_image(70, 90, np.uint8)
    with caplog.at_level(logging.WARNING, "drsformer"):
        assert np.array_equal(derain(OverflowsInHalf(), image, tile=40, precision=precision), image)
    assert sum("not finite" in record.message for record in caplog.records) == 1


def test_what_is_not_finite_in_float32_is_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(ImageError, match="not finite"):
        derain(Broken(), random_image(9, 9, np.uint8))


def test_half_precision_is_close(general):
    image = photo(64, 80)
    full = derain(general, image, precision="fp32").astype(int)
    half = derain(general, image, precision="bf16").astype(int)
    assert 0 < np.abs(full - half).mean() < 1


def test_tta_averages_the_four_flips(general):
    image = photo(64, 80).astype(np.float32) / 255
    flips = [np.s_[:, :], np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]]
    results = [derain(general, image[flip], tile=None)[flip] for flip in flips]
    # Sizes are multiples of 16, and nothing is clamped: the order of clamp and mean does not matter.
    assert 0 < min(map(np.min, results)) < max(map(np.max, results)) < 1
    averaged = derain(general, image, tile=None, tta=True)
    assert np.allclose(averaged, np.mean(results, axis=0), atol=1e-6)
    assert not np.allclose(averaged, results[0], atol=1e-4)


def test_tta_never_turns_the_rain():
    """Each pass sees an image as wide and as high as the original."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[-2:]))
            return x

    derain(Spy(), photo(32, 40), tile=None, tta=True)
    assert seen == [(32, 40)] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_autocast_around_it_changes_nothing(tiny, dtype):
    large = random_image(320, 330, np.uint8)  # enough for a scale to be estimated
    image = large[:40, :50]
    restorer = Restorer(tiny)
    expected_scale, expected = restorer.choose_scale(large), restorer(image)
    with torch.autocast("cpu", dtype=dtype):
        within = Restorer(tiny)
        scale, restored = within.choose_scale(large), within(image)
    assert scale == expected_scale
    assert np.array_equal(restored, expected)


@pytest.mark.parametrize("default", ["type", "device"])
def test_defaults_of_torch_change_nothing(default, monkeypatch):
    large = random_image(320, 330, np.uint8)  # enough for a scale to be estimated
    image = large[:40, :50]
    expected = Restorer(drsformer.load_model())
    expected_scale = expected.choose_scale(large)
    streaks._estimator.cache_clear()
    monkeypatch.setattr(inference, "_AUTO", {"cpu": (0, 96)})
    torch.set_default_dtype(torch.float64 if default == "type" else torch.float32)
    torch.set_default_device("meta" if default == "device" else None)
    try:
        model = drsformer.load_model()
        restorer = Restorer(model)
        scale, restored = restorer.choose_scale(large), restorer(image)  # measures the memory that the network needs
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        streaks._estimator.cache_clear()
    parameter = next(model.parameters())
    assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")
    assert scale == expected_scale
    assert np.array_equal(restored, expected(image))


def test_subclasses_of_arrays_become_plain_arrays(tiny, tmp_path):
    image = random_image(24, 31, np.uint8)
    mapped = np.memmap(tmp_path / "image", np.uint8, "w+", shape=image.shape)
    mapped[:] = image
    for given in (mapped, np.ma.masked_greater(image, 200)):
        result = derain(tiny, given)
        assert type(result) is np.ndarray
        assert np.array_equal(result, derain(tiny, image))


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_a_wrapped_network_gets_the_size_that_it_needs():
    model = DRSformer(dataclasses.replace(TINY, stem=2)).eval()
    image = random_image(70, 72, np.float32)
    assert derain(Wrapper(model), image).shape == image.shape


def test_what_is_no_network_is_refused():
    with pytest.raises(ConfigError, match="expected a network such as load_model gives, not str"):
        derain("general", np.zeros((8, 8, 3), np.uint8))


def test_the_scale_of_one_image(tiny):
    with pytest.raises(ConfigError, match="scale must be None or a number from 1 to 16, not 'auto'"):
        Restorer(tiny).restore(np.zeros((8, 8, 3), np.uint8), scale="auto")


def test_a_subclass_keeps_its_own_forward():
    class Darker(DRSformer):
        def forward(self, x):
            return x * 0.5

    image = random_image(16, 16, np.float32)
    assert np.allclose(derain(Darker(TINY), image), image * 0.5)


def test_strength_blends_with_the_input(general):
    image = photo(48, 48).astype(np.float32) / 255
    full = derain(general, image)
    assert np.allclose(derain(general, image, strength=0.25), image + 0.25 * (full - image), atol=1e-6)


def test_progress_counts_every_tile():
    seen = []
    Restorer(IDENTITY, tile=32, overlap=8).restore(photo(80, 50), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_auto_tile_follows_the_free_memory(general, monkeypatch):
    restorer = Restorer(general)
    monkeypatch.setattr(inference, "free_memory", lambda device: 64 * 2**30)
    assert restorer.choose_tile(481, 321) is None
    assert restorer.choose_tile(3000, 4000) == 368  # 9 x 12 tiles, as 384 needs
    monkeypatch.setattr(inference, "free_memory", lambda device: 200 * 2**20)
    assert 192 < restorer.choose_tile(481, 321) < 320
    monkeypatch.setattr(inference, "free_memory", lambda device: 2**20)
    assert restorer.choose_tile(481, 321) == 192


@pytest.mark.parametrize(
    ("model", "tile", "warned"),
    [
        (IDENTITY, 128, True),
        (IDENTITY, 192, False),
        (IDENTITY, "auto", False),
        (IDENTITY, None, False),
        (LimitedMemory(200 * 200), 400, False),
        (LimitedMemory(100 * 100), 400, True),
    ],
)
def test_small_tiles_are_warned_of_once(model, tile, warned, caplog):
    restorer = Restorer(model, scale=1, tile=tile)
    with caplog.at_level(logging.WARNING, "drsformer"):
        restorer(photo(100, 120))  # no larger than a tile, or not much
        restorer(photo(400, 500))
        restorer(photo(400, 500))
    assert sum("less than 192" in record.message for record in caplog.records) == warned


def test_the_tile_is_part_of_the_answer():
    restorer = Restorer(IDENTITY, tile=30)
    for width, tile in ((20, None), (40, 32)):
        image = photo(20, width)
        restored = restorer.restore(image)
        assert restored.tile == tile
        assert np.array_equal(restored.image, image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 0}, "tile must be"),
        ({"tile": -8}, "tile must be"),
        ({"tile": "big"}, "tile must be"),
        ({"tile": 64.0}, "tile must be"),
        ({"tile": 64, "overlap": 64}, "overlap must be less than the tile"),
        ({"overlap": -1}, "overlap must be"),
        ({"strength": 1.5}, "strength must be"),
        ({"strength": float("nan")}, "strength must be"),
        ({"strength": "1"}, "strength must be between 0 and 1, not '1'"),
        ({"precision": "int8"}, "precision must be one of"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        derain(IDENTITY, photo(), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_refused(general, dtype):
    with pytest.raises(ConfigError, match=f"weights must be float32, not {str(dtype).removeprefix('torch.')}; "):
        derain(copy.deepcopy(general).to(dtype), photo())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1, 2]], r"of shape \(H, W, 3\), not list"),
        (Image.fromarray(np.zeros((8, 8), np.uint8)), r"of shape \(H, W, 3\), not Image"),
        (np.zeros(4, np.uint8), r"shape \(H, W\), or \(H, W, C\) with 1 to 4 channels, not \(4,\)"),
        (np.zeros((3, 40, 56), np.uint8), r"not \(3, 40, 56\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"not \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros((4, 4, 0), np.uint8), r"not \(4, 4, 0\)"),
        (np.zeros((4, 4, 3)), "not float64"),
        (np.full((4, 4, 3), 255, np.float32), r"found 255\.0 to 255\.0"),
        (np.full((4, 4, 3), np.nextafter(np.float32(1), np.float32(2))), r"found 1\.0000001 to"),
        (np.full((4, 4, 3), np.nan, np.float32), "found nan"),
        (np.full((4, 4, 3), -0.1, np.float32), "found -0.1"),
    ],
)
def test_wrong_images(image, message):
    with pytest.raises(ImageError, match=message):
        derain(IDENTITY, image)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(1155, 384, 32), (385, 384, 32), (384, 384, 32), (99, 64, 16)])
def test_a_fitting_tile_needs_no_more_tiles(length, tile, overlap):
    fitting = fitting_tile(length, tile, overlap)
    assert fitting <= tile
    number = len(tile_starts(length, tile, overlap))
    assert len(tile_starts(length, fitting, overlap)) == number
    assert number == 1 or len(tile_starts(length, fitting - 1, overlap)) > number


@pytest.mark.parametrize("value", [128, 255])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 24])
def test_tiny_flat_images_stay(general, size, value):
    image = np.full((size, size, 3), value, np.uint8)
    assert np.abs(derain(general, image).astype(int) - value).max() <= 12
