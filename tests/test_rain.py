"""Rendered rain and varied layers: amounts, directions, seeds, and likeness to real layers."""

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer_cli.training import rain
from drsformer_cli.training.rain import LayerRanges, RainRanges


def layers(ranges, number=6, side=160, seed=0):
    rng = np.random.default_rng(seed)
    return [rain.render(ranges, side, side, rng) for _ in range(number)]


def direction(layer):
    """Degrees from the vertical in which a layer resembles itself most when it is moved."""
    spectrum = np.abs(np.fft.fft2(layer - layer.mean())) ** 2
    likeness = np.fft.ifft2(spectrum).real
    angles, reach = np.arange(-60, 61), np.arange(4, 20)
    y = np.rint(reach * np.cos(np.deg2rad(angles))[:, None]).astype(int)
    x = np.rint(reach * np.sin(np.deg2rad(angles))[:, None]).astype(int)
    return angles[likeness[y, x].sum(axis=1).argmax()]


def test_a_seed_decides_the_layer():
    first, again, other = (layers(RainRanges(), 1, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 255


@pytest.mark.parametrize("amount", [3.0, 20.0, 80.0])
def test_amount_is_the_mean(amount):
    found = np.mean([layer.mean() for layer in layers(RainRanges(amount=(amount, amount)), 12)])
    assert found == pytest.approx(amount, rel=0.25)


@pytest.mark.parametrize("angle", [-30, 0, 20])
def test_streaks_fall_along_their_angle(angle):
    ranges = RainRanges(amount=(15, 15), angle=(angle, angle), directions=(1, 1), spread=(0, 0), length=(40, 60))
    found = [direction(layer) for layer in layers(ranges)]
    assert np.median(found) == pytest.approx(angle, abs=4)


def test_no_rain_is_nothing():
    assert not layers(RainRanges(amount=(0, 0)), 1)[0].any()


def test_sizes_down_to_one_pixel():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 200), (128, 64)):
        assert rain.render(RainRanges(), height, width, rng).shape == (height, width)


def test_extreme_parameters_stay_within_memory():
    ranges = RainRanges(amount=(255, 255), brightness=(1, 1), length=(1000, 1000), width=(1000, 1000))
    assert rain.render(ranges, 64, 64, np.random.default_rng(0)).max() <= 255


@pytest.mark.parametrize("kind", ["light", "heavy", "garg"])
def test_statistics_resemble_real_layers(kind, shared):
    files = sorted((shared / "data" / "streaks" / kind).iterdir())[:18]
    real = [np.asarray(Image.open(file), np.float32)[:160, :160] for file in files]
    amounts = [float(layer.mean()) for layer in real]
    ranges = {"amount": (np.quantile(amounts, 0.1), np.quantile(amounts, 0.9)), "angle": (-20, 20)}
    if kind == "heavy":
        look = RainRanges(**ranges, brightness=(35, 110), length=(50, 190), depth=(1, 2), taper=(0, 0.3))
    else:
        look = RainRanges(**ranges, directions=(1, 1), depth=(1.5, 3.5), taper=(0.4, 1))
    for statistic in (np.mean, np.std, lambda layer: np.quantile(layer, 0.99), lambda layer: (layer > 10).mean()):
        expected = np.median([statistic(layer) for layer in real])
        found = np.median([statistic(layer) for layer in layers(look, 18)])
        assert 0.5 < (found + 1e-3) / (expected + 1e-3) < 2


def test_composite_adds_and_saturates():
    clean = photo()
    layer = np.full(clean.shape[:2], 60, np.float32)
    rainy = rain.composite(clean, layer, (0, 0), np.random.default_rng(0))
    assert np.array_equal(rainy, np.minimum(clean.astype(int) + 60, 255))
    assert rainy.dtype == np.uint8


def test_veil_hides_the_scene_behind_gray():
    clean = photo()
    rainy = rain.composite(clean, np.zeros(clean.shape[:2], np.float32), (1, 1), np.random.default_rng(0))
    assert rainy.std() == 0
    assert 0.6 * 255 <= rainy[0, 0, 0] <= 255


def test_a_layer_that_is_not_varied_is_cropped():
    layer = photo(50, 60)[..., 0]
    part = rain.vary(layer, LayerRanges(gain=(1, 1), mirror=False), 16, 24, np.random.default_rng(0))
    places = [(y, x) for y in range(35) for x in range(37) if np.array_equal(layer[y : y + 16, x : x + 24], part)]
    assert places


def test_a_layer_is_varied_as_asked():
    layer, rng = photo(50, 60)[..., 0], np.random.default_rng(0)
    assert rain.vary(layer, LayerRanges(gain=(2, 2)), 16, 16, rng).max() > 255 * 0.9
    ranges = LayerRanges(turn=(-20, 20), scale=(0.5, 2), blur=(0, 3))
    assert rain.vary(layer, ranges, 128, 128, rng).shape == (128, 128)  # larger than the layer
