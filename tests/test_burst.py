"""Bursts: several images of one still scene become one."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from test_pages import Page
from test_temporal import H, Stand, W, rmse, scene, with_streaks

from drsformer import ImageError
from drsformer.burst import restore_burst


def large(seed=4):
    """A scene with corners to find, (160, 200, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((160, 200, 3), 90, np.uint8)
    for _ in range(60):
        x, y, w, h = (int(value) for value in rng.integers((0, 0, 8, 8), (190, 150, 40, 40)))
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.integers(20, 170, 3).tolist(), -1)
    return image


def by_hand(image, number):
    """The middle of an image, shifted and turned as a hand does, (H, W, 3)."""
    matrix = cv2.getRotationMatrix2D((100, 80), 0.6 * number, 1)
    matrix[:, 2] += (1.3 * number, -0.7 * number)
    turned = cv2.warpAffine(image, matrix, (200, 160), flags=cv2.INTER_CUBIC)
    return np.ascontiguousarray(turned[20:140, 30:170])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tripod(dtype):
    clean = scene().astype(dtype) * (np.iinfo(dtype).max // 255)
    shots = [with_streaks(clean, seed) for seed in range(1, 6)]
    burst, alone = restore_burst(shots, Stand()), Stand().restore(shots[0]).image
    assert (burst.shape, burst.dtype) == (clean.shape, clean.dtype)
    assert rmse([burst], [clean])[0] < 0.3 * rmse([alone], [clean])[0]


def test_exposures_may_differ():
    clean = [np.rint(scene() * exposure).astype(np.uint8) for exposure in (1, 0.8, 1.2, 0.9, 1.1)]
    shots = [with_streaks(frame, seed, 20) for seed, frame in enumerate(clean)]
    burst, alone = restore_burst(shots, Stand()), Stand().restore(shots[0]).image
    assert rmse([burst], clean[:1])[0] < 0.1 * rmse([alone], clean[:1])[0]


def test_images_in_the_hand_are_aligned():
    rng = np.random.default_rng(1)
    clean = [by_hand(large(), number) for number in range(5)]
    shots = []
    for frame in clean:
        layer = np.zeros(frame.shape[:2], np.float32)
        for x, y in rng.integers((0, 0), (140, 120), (40, 2)).tolist():
            cv2.line(layer, (x, y), (x + 2, y + 12), 60, 1)
        shots.append(np.clip(frame + layer[..., None], 0, 255).astype(np.uint8))
    burst, alone = restore_burst(shots, Stand()), Stand().restore(shots[0]).image
    assert rmse([burst], [clean[0]])[0] < 0.75 * rmse([alone], [clean[0]])[0]


def test_what_moves_comes_from_the_first_image():
    clean = [scene() for _ in range(5)]
    for i, frame in enumerate(clean):
        frame[20:50, 15 * i : 15 * i + 18] = 200
    burst = restore_burst([with_streaks(frame, seed, 10) for seed, frame in enumerate(clean)], Stand())
    alone = Stand().restore(with_streaks(clean[0], 0, 10)).image
    assert rmse([burst], clean[:1])[0] <= rmse([alone], clean[:1])[0]


def test_what_is_no_burst():
    with pytest.raises(ImageError, match="at least 2 images, not 1"):
        restore_burst([scene()], Stand())
    with pytest.raises(ImageError, match=f"image 2 is {W - 1}x{H} with 8 bits, but image 1 is {W}x{H} with 8 bits"):
        restore_burst([scene(), scene()[:, 1:]], Stand())
    with pytest.raises(ImageError, match="image 2 is 96x72 with 16 bits"):
        restore_burst([scene(), scene().astype(np.uint16)], Stand())
    with pytest.raises(
        ImageError, match=r"other\.jpg cannot be aligned with one\.jpg: expected images of one still scene"
    ):
        restore_burst([large(4), large(5)], Stand(), names=["one.jpg", "other.jpg"])


@pytest.fixture
def shots(tmp_path, monkeypatch):
    """Five images of one scene in the rain, the first with a comment; the current folder."""
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        rainy = Image.fromarray(with_streaks(scene(), number))
        rainy.save(f"{number}.jpg", quality=100, subsampling=0, comment=f"shot {number}")
    return [f"{number}.jpg" for number in range(5)]


def test_command_writes_one_image_with_the_metadata_of_the_first(run, shots, tiny_file):
    answer = run(
        *("derain", *shots, "--burst", "-o", "dry.jpg", "--model", tiny_file),
        *("--json", "--overwrite", "--compare", "--report", "page.html"),
    )
    assert (answer.code, answer.err) == (0, "")
    row = json.loads(answer.out)
    assert (row["input"], row["others"], row["output"]) == (shots[0], shots[1:], "dry.jpg")
    with Image.open("dry.jpg") as dry, Image.open("dry_compare.jpg") as both:
        assert (dry.size, dry.info["comment"], both.size) == ((W, H), b"shot 0", (2 * W, H))
    page = Page("page.html")
    assert page.said("h1") == ["1 file derained"]
    assert [a["data-name"] for a in page.all("li", "card")] == ["0.jpg"]
    assert [a["href"] for a in page.all("a")] == ["0.jpg", "dry.jpg"]
    assert run("derain", "*.jpg", "--burst", "-o", "b.png", "--dry-run").out == "0.jpg -> b.png\n"
    numbered = run("derain", "%d.jpg", "--burst", "-o", "b.png", "--dry-run", "--json").out
    assert json.loads(numbered) == {"input": "0.jpg", "others": shots[1:], "output": "b.png"}
    assert not Path("b.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0.jpg", "-o", "b.jpg"], "--burst needs at least 2 images, not only 0.jpg"),
        (["0.jpg", "0.jpg", "-o", "b.jpg"], "--burst needs at least 2 images"),
        (["0.jpg", "1.jpg"], "expected -o FILE"),
        (["0.jpg", "1.jpg", "-o", "."], "expected -o FILE, not the folder ."),
        (["0.jpg", "1.jpg", "-o", "-"], "not '-'"),
        (["-", "-o", "b.jpg"], "not '-'"),
        (["0.jpg", ".", "-o", "b.jpg"], ". is a folder; --burst needs the images themselves"),
        (["0.jpg", "1.jpg", "-o", "1.jpg", "--overwrite"], "1.jpg would be overwritten, but it is an input"),
        (["0.jpg", "1.jpg", "-o", "0.jpg", "--overwrite"], "0.jpg would be overwritten, but it is an input"),
        (["0.jpg", "none.jpg", "-o", "b.jpg"], "none.jpg: no such file or folder"),
        (["0.jpg", "1.jpg", "-o", "2.jpg"], "output exists: 2.jpg"),
        (["0.jpg", "1.jpg", "-o", "b.gif"], "unknown ending"),
    ],
)
def test_what_the_command_refuses(run, shots, arguments, message):
    answer = run("derain", *arguments, "--burst")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert message in answer.err
    assert not Path("b.jpg").exists()


def test_another_profile_is_said(run, shots, tiny_file):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(with_streaks(scene(), 7)).save("other.png", icc_profile=profile)
    answer = run("derain", "0.jpg", "1.jpg", "other.png", "--burst", "-o", "b.jpg", "--model", tiny_file)
    said = "0.jpg: other.png has another ICC profile, or none; its colors are taken as they are\n"
    assert (answer.code, answer.err) == (0, said)


def test_command_names_the_image_that_does_not_fit(run, shots, tiny_file):
    Image.fromarray(scene()[:-2]).save("small.png")
    Path("text.jpg").write_text("I am no image.\n")
    for bad, message in {
        "small.png": "small.png is 96x70 with 8 bits, but the first image is 96x72",
        "text.jpg": "text.jpg: not",
    }.items():
        answer = run("derain", "0.jpg", bad, "--burst", "-o", "b.jpg", "--model", tiny_file)
        assert (answer.code, answer.err.count("\n")) == (1, 1)
        assert message in answer.err
        assert not Path("b.jpg").exists()
