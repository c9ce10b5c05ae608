"""PSNR, SSIM, NIQE and BRISQUE against the authors' own values, and in the odd cases."""

import json
import math

import cv2
import numpy as np
import pytest
from conftest import photo

from drsformer.errors import CheckpointError, ConfigError, ImageError
from drsformer_cli.images import read_rgb8
from drsformer_cli.metrics import (
    BRISQUE_FILES,
    METRICS,
    NIQE_FILE,
    PROTOCOLS,
    Brisque,
    Metric,
    Niqe,
    luma,
    no_reference,
    psnr,
    ssim,
)


@pytest.fixture(scope="module")
def reference(shared):
    return json.loads((shared / "reference" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def niqe(shared):
    return Niqe(shared / "data" / "iqa" / NIQE_FILE)


@pytest.fixture(scope="module")
def brisque(shared):
    return Brisque(*(shared / "data" / "iqa" / name for name in BRISQUE_FILES))


@pytest.mark.parametrize(("name", "number"), [("Rain200H", "1"), ("Rain200H", "3"), ("DID-Data", "1")])
def test_the_authors_scripts_values(shared, reference, name, number):
    restored, clean = (
        read_rgb8(shared / "data" / "metrics" / name / folder / f"{number}.png") for folder in ("results", "targets")
    )
    expected, protocol = reference[name][number], reference[name]["protocol"]
    assert psnr(restored, clean, protocol) == pytest.approx(expected["psnr"], abs=1e-5)
    assert ssim(restored, clean, protocol) == pytest.approx(expected["ssim"], abs=1e-6)


def test_the_reference_values_without_ground_truth(shared, reference, niqe, brisque):
    """The references are float32: in flat areas they normalize rounding errors, which differ between processors.

    NIQE's reference itself moves by 0.003 on these images when its sums are ordered as another processor would.
    """
    for name, expected in reference["no-reference"]["images"].items():
        image = read_rgb8(shared / "data" / name)
        assert niqe(image) == pytest.approx(expected["niqe"], abs=0.003), name
        assert brisque(image) == pytest.approx(expected["brisque"], abs=0.01), name


@pytest.mark.parametrize("function", ["filter2D", "GaussianBlur", "resize"])
def test_rounding_errors_do_not_move_niqe_and_brisque(monkeypatch, niqe, brisque, function):
    """On another processor, OpenCV adds in another order: the last bits of its sums differ, the scores must not."""
    image = photo(200, 301, noise=0.1)
    image[:120] = 255
    image[120:150] = np.arange(301)[:, None] // 2
    expected = niqe(image), brisque(image)
    original, rng = getattr(cv2, function), np.random.default_rng(0)

    def elsewhere(values, *arguments, **options):
        result = original(values, *arguments, **options)
        return result + rng.choice([-1e-13, 0, 1e-13], result.shape) * np.maximum(np.abs(result), 1)

    monkeypatch.setattr(cv2, function, elsewhere)
    assert (niqe(image), brisque(image)) == pytest.approx(expected, abs=1e-7)


def test_half_size_is_exact_and_keeps_flat_areas():
    """As MATLAB's imresize(y, 0.5): weights -3, -9, 29, 111 / 256, mirrored borders."""
    y = luma(photo(96, 192), "uint8-Y")
    half = no_reference._half_size(y)
    assert half.shape == (48, 96)
    weights = np.outer(*[np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256] * 2)
    assert half[10, 20] == (weights * y[17:25, 37:45]).sum()
    assert (no_reference._half_size(np.full((96, 96), 77.0)) == 77).all()


def test_luma_is_that_of_studio_range():
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert luma(colors, "uint8-Y").tolist() == [[16, 235, 81, 145, 41]]
    assert luma(colors, "float-Y") == pytest.approx(np.array([[16, 235, 81.481, 144.553, 40.966]]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_images(protocol):
    assert psnr(photo(), photo(), protocol) == math.inf
    assert ssim(photo(), photo(), protocol) == pytest.approx(1)


def test_protocols_differ_as_they_should():
    """A blue step of 4 moves Y by 0.39: rounding hides or exaggerates it, the float protocol does not."""
    clean = np.full((20, 20, 3), 100, np.uint8)
    restored = clean.copy()
    restored[..., 2] += 4
    assert psnr(restored, clean, "float-Y") == pytest.approx(20 * math.log10(255 / (4 * 24.966 / 255)))
    assert psnr(restored, clean, "uint8-Y") == math.inf


def plain_ssim(x, y):
    """SSIM of one window after the other, as Wang et al. write it."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g) / g.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            variances = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
            )
    return np.mean(values)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (30, 17)])
def test_ssim_is_that_of_the_paper(height, width):
    a, b = photo(height, width), photo(height, width, seed=3, noise=0.1)
    expected = plain_ssim(luma(a, "uint8-Y"), luma(b, "uint8-Y"))
    assert ssim(a, b, "uint8-Y") == pytest.approx(expected, abs=1e-12)


def test_ssim_in_bands_is_ssim_of_the_whole(monkeypatch):
    a, b = photo(70, 40), photo(70, 40, seed=1)
    whole = ssim(a, b)
    monkeypatch.setattr("drsformer_cli.metrics.full_reference._ROWS", 7)
    assert ssim(a, b) == pytest.approx(whole, abs=1e-12)


def test_large_images_are_shrunk_in_the_float_protocol_only():
    """f = 2 from 384 pixels on: noise that cancels in 2x2 means disappears."""
    clean = np.full((400, 384, 3), 100, np.uint8)
    checks = (np.indices((400, 384)).sum(0) % 2 * 20).astype(np.uint8)
    restored = clean - 10 + checks[..., None]
    assert ssim(restored, clean, "float-Y") == pytest.approx(1)
    assert ssim(restored, clean, "uint8-Y") < 0.9
    assert ssim(restored[:383, :383], clean[:383, :383], "float-Y") < 0.9


def test_what_cannot_be_compared():
    with pytest.raises(ImageError, match="sizes differ: 56x40 and 56x41"):
        psnr(photo(40, 56), photo(41, 56))
    with pytest.raises(ImageError, match="at least 11x11 pixels, not 56x10"):
        ssim(photo(10, 56), photo(10, 56))
    with pytest.raises(ImageError, match="uint8"):
        psnr(photo(dtype=np.uint16), photo(dtype=np.uint16))
    with pytest.raises(ConfigError, match="uint8-Y, float-Y, not 'Y'"):
        psnr(photo(), photo(), "Y")


def test_one_pixel_has_a_psnr():
    assert psnr(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)) == pytest.approx(
        20 * math.log10(255 / 219)
    )


def test_no_reference_metrics_refuse_what_has_no_statistics(niqe, brisque):
    flat = np.full((200, 200, 3), 9, np.uint8)
    with pytest.raises(ImageError, match="two blocks of 96x96 pixels, not 191x96"):
        niqe(photo(96, 191))
    with pytest.raises(ImageError, match="of one color"):
        niqe(flat)
    with pytest.raises(ImageError, match="some texture"):
        brisque(flat)
    with pytest.raises(ImageError, match="8x8 pixels, not 56x7"):
        brisque(photo(7, 56))


def test_flat_blocks_do_not_spoil_niqe(niqe):
    image = photo(200, 300, noise=0.1)
    image[:96, :96] = 255
    assert 0 < niqe(image) < 100


@pytest.mark.parametrize("content", [b"", b"text", b"%YAML:1.0\n---\nopencv_ml_svm:\n   gamma: 1.\n"])
def test_damaged_parameter_files(tmp_path, content):
    file = tmp_path / "parameters"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the parameters of NIQE"):
        Niqe(file)
    with pytest.raises(CheckpointError, match="not the parameters of BRISQUE"):
        Brisque(file, file)
    with pytest.raises(CheckpointError, match="NIQE"):
        Niqe(tmp_path / "none")


def test_the_table_of_metrics(shared):
    """Every metric can be loaded and called in one way; the first of each kind is the main one."""
    assert [name for name, metric in METRICS.items() if metric.needs_clean] == ["psnr", "ssim"]
    assert [name for name, metric in METRICS.items() if not metric.needs_clean] == ["niqe", "brisque"]
    image, clean = photo(100, 200, noise=0.1), photo(100, 200)
    values = {
        name: metric.load(lambda file: shared / "data" / "iqa" / file)(image, clean, "float-Y")
        for name, metric in METRICS.items()
    }
    assert values["psnr"] == psnr(image, clean, "float-Y")
    assert values["ssim"] == ssim(image, clean, "float-Y")
    assert values["niqe"] == Niqe(shared / "data" / "iqa" / NIQE_FILE)(image)
    assert 0 <= values["brisque"] <= 100


def test_a_metric_may_need_both_a_clean_image_and_files(tmp_path):
    """As LPIPS would."""

    def loaded(path):
        return lambda restored, clean, protocol: (path, restored, clean, protocol)

    row = Metric("x", "X", 3, higher_is_better=False, needs_clean=True, function=loaded, files=("x.pth",))
    assert row.load(lambda file: tmp_path / file)(1, 2, "float-Y") == (tmp_path / "x.pth", 1, 2, "float-Y")
