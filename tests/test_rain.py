"""Rendered rain and varied layers: amounts, directions, seeds, and likeness to real layers."""

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer_cli.training import rain
from drsformer_cli.training.rain import CameraRanges, LayerRanges, Look, RainRanges


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
    rainy = rain.composite(clean, layer, Look(), np.random.default_rng(0))
    assert np.array_equal(rainy, np.minimum(clean.astype(int) + 60, 255))
    assert rainy.dtype == np.uint8


def test_screen_blends_and_never_saturates():
    clean = photo()
    layer = np.full(clean.shape[:2], 102, np.float32)
    rainy = rain.composite(clean, layer, Look(screen=1), np.random.default_rng(0))
    assert np.array_equal(rainy, np.rint(255 - (255 - clean.astype(float)) * 0.6))


def test_soft_light_darkens_what_a_faint_layer_covers():
    gray = np.full((8, 8, 3), 128, np.uint8)
    layer = np.full((8, 8), 25.5, np.float32)
    layer[:, 4:] = 229.5
    look = Look(soft_light=1)
    rainy = [rain.composite(gray, layer, look, np.random.default_rng(seed)).astype(float) for seed in range(20)]
    darker, brighter = (np.array([image[:, half].mean() - 128 for image in rainy]) for half in (slice(4), slice(4, 8)))
    # -0.8 of a quarter of 255, times the opacity.
    assert -0.8 * 51.5 < darker.min() < -30
    assert -16 < darker.max() < -0.2 * 50.5
    assert np.allclose(darker, -brighter, atol=1)
    ends = np.zeros((8, 8, 3), np.uint8)
    ends[4:] = 255
    assert np.array_equal(rain.composite(ends, layer, look, np.random.default_rng(0)), ends)


def test_veil_grows_with_the_distance():
    black = np.zeros((64, 64, 3), np.uint8)
    no_rain = np.zeros((64, 64), np.float32)
    hazes = [
        rain.composite(black, no_rain, Look(veil=(1, 1)), np.random.default_rng(seed)).mean(axis=(1, 2))
        for seed in range(20)
    ]
    top, bottom = np.mean([haze[:8].mean() for haze in hazes]), np.mean([haze[-8:].mean() for haze in hazes])
    assert top > 1.3 * bottom > 0
    assert np.array_equal(rain.composite(photo(), no_rain[:40, :56], Look(), np.random.default_rng(0)), photo())


def test_tones_are_harder_and_more_saturated():
    clean, no_rain = photo(), np.zeros((40, 56), np.float32)
    harder = rain.composite(clean, no_rain, Look(contrast=(1.3, 1.3)), np.random.default_rng(0)).astype(float)
    assert harder.std() == pytest.approx(1.3 * clean.std(), rel=0.1)
    colorful = rain.composite(clean, no_rain, Look(saturation=(1.2, 1.2)), np.random.default_rng(0)).astype(float)
    spreads = [(image.max(axis=2) - image.min(axis=2)).mean() for image in (clean, colorful)]
    assert spreads[1] == pytest.approx(1.2 * spreads[0], rel=0.1)


def test_noise_is_in_the_clean_image_and_jpeg_is_not():
    camera = CameraRanges(share=1, dim=(0.5, 0.5), noise=(4, 4), jpeg=(60, 60))
    gray = np.full((64, 64, 3), 200, np.uint8)
    taken = rain.expose(gray, camera, np.random.default_rng(0)).astype(float)
    assert taken.mean() == pytest.approx(100, abs=0.5)
    assert taken.std() == pytest.approx(4, rel=0.1)
    compressed = rain.compress(photo(64, 64), camera, np.random.default_rng(0))
    error = np.abs(compressed.astype(int) - photo(64, 64)).mean()
    assert 0.5 < error < 30  # red, green and blue are where they were
    still = CameraRanges(share=0)
    assert rain.expose(gray, still, np.random.default_rng(0)) is gray
    assert rain.compress(gray, still, np.random.default_rng(0)) is gray


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


@pytest.mark.parametrize("scale", [0.5, 1, 4])
def test_streaks_of_a_layer_become_as_wide_as_asked(scale):
    layer = np.zeros((321, 481), np.uint8)
    layer[:, 60::120] = 200  # one pixel wide; farther apart than the patch shows
    ranges = LayerRanges(gain=(1, 1), scale=(scale, scale))
    parts = [rain.vary(layer, ranges, 96, 96, np.random.default_rng(seed)) for seed in range(40)]
    assert min(part.min() for part in parts) >= 0
    widths = [part.sum() / 96 / 200 for part in parts if part.any()]
    assert max(widths) == pytest.approx(scale * max(1, round(96 / (120 * scale))), rel=0.25)


@pytest.mark.parametrize("angle", [-45, 30, 50])
def test_layers_fall_along_the_angle_they_are_turned_by(angle):
    upright = rain.render(
        RainRanges(amount=(15, 15), angle=(0, 0), directions=(1, 1)), 300, 300, np.random.default_rng(1)
    )
    ranges = LayerRanges(turn=(angle, angle), mirror=False)
    found = [
        direction(rain.vary(upright.astype(np.uint8), ranges, 128, 128, np.random.default_rng(i))) for i in range(5)
    ]
    assert np.median(found) == pytest.approx(angle, abs=4)


@pytest.mark.parametrize("angle", [-40, 0, 25])
def test_noise_rain_falls_along_its_angle_and_has_its_amount(angle):
    ranges = RainRanges(noise=1, amount=(20, 20), angle=(angle, angle), length=(30, 40), gusts=(0, 0))
    found = layers(ranges)
    assert np.median([direction(layer) for layer in found]) == pytest.approx(angle, abs=4)
    assert np.mean([layer.mean() for layer in found]) == pytest.approx(20, rel=0.25)


def test_rendered_rain_grows_with_its_scale():
    def width(scale):
        ranges = RainRanges(amount=(10, 10), angle=(0, 0), directions=(1, 1), scale=(scale, scale), blur=(0, 0))
        likeness = []
        for layer in layers(ranges, 8):
            rows = layer - layer.mean()
            likeness.append((rows[:, 3:] * rows[:, :-3]).mean() / rows.var())
        return np.mean(likeness)  # of pixels three apart

    assert width(1) < 0.5 < width(4)


def test_streaks_out_of_focus_are_soft():
    def sharpness(defocus):
        ranges = RainRanges(amount=(10, 10), depth=(3, 3), defocus=(defocus, defocus), blur=(0, 0))
        return np.mean([np.abs(np.diff(layer, axis=1)).mean() for layer in layers(ranges, 8)])

    assert sharpness(6) < 0.8 * sharpness(0)
    amounts = [np.mean([layer.mean() for layer in layers(RainRanges(amount=(20, 20), defocus=(s, s)))]) for s in (0, 4)]
    assert amounts[1] == pytest.approx(amounts[0], rel=0.3)
