import cv2
import numpy as np
import pytest
from conftest import DEMO
from torch import nn

from drsformer import Restorer, derain, read_image
from drsformer.scale import add_enlarged, shrink


@pytest.fixture(scope="module")
def demo():
    return read_image(DEMO)


def image(shape=(61, 94, 3), dtype=np.uint8, seed=0):
    noise = np.random.default_rng(seed).random(shape, np.float32)
    return noise if dtype == np.float32 else (noise * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("scale", [1.5, 2, 3.3, 16, 400])
def test_shrink_averages_areas(scale):
    pixels = image()
    height, width = max(1, round(61 / scale)), max(1, round(94 / scale))
    expected = cv2.resize(pixels.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_AREA)
    assert np.allclose(shrink(pixels, 255, scale), expected, atol=1e-5)


def test_shrink_keeps_16_bits_and_constants():
    assert np.allclose(shrink(np.full((40, 30, 3), 1001, np.uint16), 65535, 4), 1001 / 65535, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(61, 94), (200, 33), (1, 5)])  # one band, four bands, less than the cubic's taps
def test_a_change_is_enlarged_with_cubic_interpolation(size, channels):
    H, W = size
    change = image((-(-H // 3), -(-W // 3), channels), np.float32) * 0.4 - 0.2
    change[np.abs(change) < 2 / 255] = 0
    gray = np.full((H, W, channels), 0.5, np.float32)
    result = np.empty_like(gray)
    add_enlarged(gray, change, 1.0, into=result)
    enlarged = cv2.resize(change, (W, H), interpolation=cv2.INTER_CUBIC).reshape(H, W, channels)
    assert np.allclose(result, gray + enlarged, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pixels_without_a_change_keep_every_bit(dtype):
    pixels = image((64, 64, 3), dtype)
    peak = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    change = np.full((16, 16, 3), 0.9 / 255, np.float32)  # less than one level of 8 bits
    change[:, 12:] = -0.2
    result = np.empty_like(pixels)
    add_enlarged(pixels, change, peak, into=result)
    assert np.array_equal(result[:, :40], pixels[:, :40])
    assert (result[:, 56:] < pixels[:, 56:]).mean() > 0.7


def test_sums_stay_in_the_range():
    pixels = image((32, 32, 3))
    for change, expected in ((1.0, 255), (-1.0, 0)):
        result = np.empty_like(pixels)
        add_enlarged(pixels, np.full((8, 8, 3), change, np.float32), 255, into=result)
        assert (result == expected).all()


class Darker(nn.Module):
    """Takes a tenth of the range from every pixel."""

    def forward(self, x):
        return x - 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(45, 61), (45, 61, 1), (45, 61, 2), (45, 61, 3), (45, 61, 4), (1, 1, 3)])
def test_every_kind_of_image_at_any_scale(dtype, shape):
    pixels = image(shape, dtype)
    assert np.array_equal(derain(nn.Identity(), pixels, scale=2.7), pixels)

    restored = derain(Darker(), pixels, scale=3, tile=16)
    assert (restored.shape, restored.dtype) == (shape, dtype)
    colors = {1: 1, 2: 1, 3: 3, 4: 3}[pixels.reshape(*shape[:2], -1).shape[2]]
    before, after = (array.reshape(*shape[:2], -1) for array in (pixels, restored))
    assert np.array_equal(after[..., colors:], before[..., colors:])
    peak = 1 if dtype == np.float32 else np.iinfo(dtype).max
    bright = before[..., :colors] > 0.2 * peak
    change = after[..., :colors][bright] / peak - before[..., :colors][bright] / peak
    assert np.allclose(change, -0.1, atol=0.03 if before.shape[0] > 1 else 0.01)


def test_tiles_and_progress_are_those_of_the_small_image():
    steps = []
    restored = Restorer(nn.Identity(), tile=32).restore(image((120, 160, 3)), lambda *step: steps.append(step), scale=4)
    assert (restored.scale, restored.tile) == (4, 32)
    assert steps == [(1, 2), (2, 2)]
    assert Restorer(nn.Identity(), tile=32).restore(image((120, 160, 3)), scale=5).tile is None


def test_strength_is_that_of_the_change():
    pixels = image() // 2 + 100
    half = derain(Darker(), pixels, scale=2, strength=0.5).astype(int)
    assert np.abs((pixels - half) - 12.75).max() <= 0.5


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_chosen_scale_follows_the_width_of_the_streaks(demo, factor):
    large = cv2.resize(demo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert 0.59 < Restorer(nn.Identity()).choose_scale(large) / factor < 1.21  # 0.84 of it, or half an octave off


def test_depth_and_color_do_not_change_the_choice(demo):
    chosen = Restorer(nn.Identity()).choose_scale(cv2.resize(demo, None, fx=2, fy=2))
    deep = cv2.resize(demo, None, fx=2, fy=2).astype(np.uint16) * 257
    assert Restorer(nn.Identity()).choose_scale(deep) == chosen
    assert Restorer(nn.Identity()).choose_scale((deep / 65535).astype(np.float32)) == chosen


@pytest.mark.parametrize("shape", [(1, 1, 3), (159, 400, 3), (300, 300), (200, 200, 2), (700, 170, 4)])
@pytest.mark.parametrize("value", [0, 90, 255])
def test_what_shows_no_rain_is_restored_at_full_size(shape, value):
    assert Restorer(nn.Identity()).choose_scale(np.full(shape, value, np.uint8)) == 1


def test_auto_is_the_chosen_scale(demo):
    large = cv2.resize(demo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    restorer = Restorer(Darker())
    restored = restorer.restore(large)
    assert restored.scale == restorer.choose_scale(large) > 1
    assert np.array_equal(restored.image, derain(Darker(), large, scale=restored.scale))


def test_enlarged_benchmark_images(shared):
    for path in sorted((shared / "data/Rain100L/input").iterdir())[:4]:
        large = cv2.resize(read_image(path), None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
        assert 1.2 <= Restorer(nn.Identity()).choose_scale(large) <= 2.4
