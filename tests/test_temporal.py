"""Videos: what the frames before and after a frame add to the network's answer."""

import dataclasses
import types

import cv2
import numpy as np
import pytest
from conftest import photo

import drsformer
from drsformer import ConfigError, ImageError, burst, fusion, temporal
from drsformer.alignment import View
from drsformer.config import MOST_NEIGHBORS
from drsformer.inference import Restorer
from drsformer.temporal import CONTEXT, restore_frames

H, W = 72, 96
FRAMES = 9


class Stand:
    """A restorer that takes a part of the streaks out: what is brighter than the median of its surroundings."""

    strength = 1.0

    def __init__(self, part=0.5, scales=None):
        self.part, self.scales = part, scales or {}
        self.restored = []

    def choose_scale(self, image):
        return self.scales.get(image.tobytes(), 1.0)

    def restore(self, image, progress=None, scale=None):
        self.restored.append((image.tobytes(), scale))
        smooth = cv2.medianBlur(image, 5)
        bright = np.maximum(image.astype(np.int32) - smooth, 0)
        bright[bright < 12 * (np.iinfo(image.dtype).max // 255)] = 0
        return types.SimpleNamespace(image=(image - self.part * bright).astype(image.dtype), scale=scale)


def scene(seed=3):
    """Something to see, (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(20, 150, (H // 8, W // 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC)


def with_streaks(frame, seed, number=40):
    """The frame with bright lines; 16 bits stay 16."""
    rng = np.random.default_rng(seed)
    layer = np.zeros((H, W), np.float32)
    for x, y in zip(rng.integers(0, W, number), rng.integers(-10, H, number), strict=True):
        cv2.line(layer, (int(x), int(y)), (int(x) + 2, int(y) + 12), 80, 1)
    level = np.iinfo(frame.dtype).max / 255
    return np.clip(frame + level * layer[..., None], 0, np.iinfo(frame.dtype).max).astype(frame.dtype)


def rmse(video, truth):
    return [float(np.sqrt(np.square(a.astype(float) - b).mean())) for a, b in zip(video, truth, strict=True)]


def images(frames, restorer, **settings):
    return [frame.image for frame in restore_frames(frames, restorer, **settings)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_background_behind_rain_is_recovered(dtype):
    clean = scene().astype(dtype) * (np.iinfo(dtype).max // 255)
    rainy = [with_streaks(clean, seed) for seed in range(FRAMES)]
    fused, alone = images(rainy, Stand()), images(rainy, Stand(), temporal="off")
    assert [(f.shape, f.dtype) for f in fused] == [(clean.shape, clean.dtype)] * FRAMES
    level = np.iinfo(dtype).max / 255
    before, after = np.array(rmse(alone, [clean] * FRAMES)) / level, np.array(rmse(fused, [clean] * FRAMES)) / level
    assert np.median(after / before) < 0.1
    assert (after < 0.6 * before).all()  # streaks that cross look like something that moves


def test_background_behind_rain_is_recovered_while_the_camera_pans():
    wide = cv2.resize(np.random.default_rng(5).integers(20, 150, (12, 30, 3)).astype(np.uint8), (240, H))
    clean = [np.ascontiguousarray(wide[:, 3 * i : 3 * i + W]) for i in range(FRAMES)]
    rainy = [with_streaks(frame, seed) for seed, frame in enumerate(clean)]
    before, after = rmse(images(rainy, Stand(), temporal="off"), clean), rmse(images(rainy, Stand()), clean)
    assert np.mean(after) < 0.6 * np.mean(before)
    assert max(np.array(after) / before) < 1


def test_frames_that_are_further_away_help():
    clean = [scene()] * 17
    rainy = [with_streaks(frame, seed) for seed, frame in enumerate(clean)]
    few, many = (rmse(images(rainy, Stand(), temporal=reach), clean) for reach in (4, 8))
    assert many[8] < 0.5 * few[8]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "exposure",
    [lambda i: 0.8 if i < 5 else 1, lambda i: 1 - 0.03 * i, lambda i: 1.5 if i == 4 else 1],
    ids=["step", "fade", "flash"],
)
def test_changes_of_the_exposure_are_followed(exposure, dtype):
    level = np.iinfo(dtype).max // 255
    clean = [np.rint(scene() * (float(level) * exposure(i))).astype(dtype) for i in range(FRAMES)]
    rainy = [with_streaks(frame, seed, 15) for seed, frame in enumerate(clean)]
    before, after = rmse(images(rainy, Stand(), temporal="off"), clean), rmse(images(rainy, Stand()), clean)
    assert (np.array(after) < 0.2 * np.array(before)).all()


@pytest.mark.parametrize("length", [4, 8, 16])
def test_dissolve_leaves_no_ghosts(length):
    shares = np.clip((np.arange(length + 10) - 5) / length, 0, 1)
    one, other = scene(), scene(4)[:, ::-1]
    clean = [np.rint(one * (1 - share) + other * share).astype(np.uint8) for share in shares]
    rainy = [with_streaks(frame, seed, 25) for seed, frame in enumerate(clean)]
    before, after = (np.array(rmse(images(rainy, Stand(), temporal=t), clean)) for t in ("off", "auto"))
    assert (after < 1.25 * before).all()
    assert (after[:4] < 0.8 * before[:4]).all()  # before the dissolve the frames help each other as ever


def test_flash_that_no_gain_explains_is_left_out():
    clean = [scene()] * FRAMES
    clean[4] = np.clip(1.6 * scene() + 40, 0, 255).astype(np.uint8)
    rainy = [with_streaks(frame, seed, 15) for seed, frame in enumerate(clean)]
    before, after = (np.array(rmse(images(rainy, Stand(0.8), temporal=t), clean)) for t in ("off", "auto"))
    assert after[4] <= 1.05 * before[4]
    assert (np.delete(after, 4) < 0.5 * np.delete(before, 4)).all()


def test_what_is_left_of_rain_flickers_less_in_the_mean_of_fused_frames(monkeypatch):
    rainy = [with_streaks(scene(), seed, 150) for seed in range(FRAMES)]

    def changes():
        video = np.array(images(rainy, Stand()), np.float32)
        return np.abs(np.diff(video, axis=0)).mean()

    steady = changes()
    monkeypatch.setattr(temporal, "_STEADY", 0)
    assert steady < 0.7 * changes()


def test_rows_are_fused_without_seams(monkeypatch):
    rainy = [with_streaks(scene(), seed) for seed in range(FRAMES)]
    whole = images(rainy, Stand())
    monkeypatch.setattr(fusion, "_ROWS", 5)
    assert all(map(np.array_equal, whole, images(rainy, Stand())))


def test_motion_that_only_one_pair_of_frames_shows_is_not_followed_where_the_camera_stands(monkeypatch):
    rainy = [with_streaks(scene(), seed) for seed in range(FRAMES)]
    expected = images(rainy, Stand())
    numbers = {View(Stand().restore(frame).image).gray.tobytes(): n for n, frame in enumerate(rainy)}
    estimate, wrong = temporal.estimate_motion, []

    def sometimes_wrong(view, other):
        motion = estimate(view, other)
        pair = numbers[view.gray.tobytes()], numbers[other.gray.tobytes()]
        if pair not in {(0, 3), (2, 4), (4, 5), (5, 8)}:
            return motion
        wrong.append(pair)
        return dataclasses.replace(motion, camera=np.array([[1, 0, 5 + len(wrong)], [0, 1, -4]], np.float64))

    monkeypatch.setattr(temporal, "estimate_motion", sometimes_wrong)
    assert np.array_equal(images(rainy, Stand()), expected)
    assert len(wrong) == 4


@pytest.mark.parametrize("brightness", [0, 235])
def test_what_moves_leaves_no_ghosts(brightness):
    """A square that crosses the scene faster than the flow can follow: no frame is worse than by the network alone."""
    clean = []
    for i in range(FRAMES):
        frame = scene()
        frame[25:45, 9 * i : 9 * i + 20] = brightness
        clean.append(frame)
    rainy = [with_streaks(frame, seed, 15) for seed, frame in enumerate(clean)]
    alone, fused = images(rainy, Stand(), temporal="off"), images(rainy, Stand())
    assert (np.array(rmse(fused, clean)) <= rmse(alone, clean)).all()
    for i, (frame, truth) in enumerate(zip(fused, clean, strict=True)):
        near = (slice(20, 50), slice(max(0, 9 * i - 12), 9 * i + 32))
        assert rmse([frame[near]], [truth[near]])[0] <= 1.05 * rmse([alone[i][near]], [truth[near]])[0], i


def test_frames_beyond_a_cut_change_nothing():
    first = [with_streaks(scene(1), seed) for seed in range(5)]
    second = [with_streaks(scene(2), seed) for seed in range(10, 15)]
    together = list(restore_frames([*first, *second], Stand()))
    assert [i for i, frame in enumerate(together) if frame.starts_shot] == [0, 5]
    apart = [*images(first, Stand()), *images(second, Stand())]
    assert all(np.array_equal(a.image, b) for a, b in zip(together, apart, strict=True))


def test_haze_that_the_network_removes_stays_removed():
    class Clearing(Stand):
        def restore(self, image, progress=None, scale=None):
            restored = super().restore(image, scale=scale)
            return types.SimpleNamespace(image=restored.image - np.uint8(20), scale=scale)

    rainy = [with_streaks(scene(), seed, 15) for seed in range(5)]
    cleared = images([frame + np.uint8(20) for frame in rainy], Clearing())
    assert np.abs(np.array(cleared).mean(axis=(1, 2, 3)) - scene().mean()).max() < 1


@pytest.mark.parametrize("order", [1, -1])
def test_shot_begins_with_the_first_frame_of_a_new_scene(order):
    """Whether it is darker or brighter than the scene before it."""
    scenes = [scene(1), scene(2) // 2][::order]
    frames = [with_streaks(frame, 5 * i + seed) for i, frame in enumerate(scenes) for seed in range(5)]
    starts = [frame.starts_shot for frame in restore_frames(frames, Stand(), temporal="off")]
    assert np.flatnonzero(starts).tolist() == [0, 5]


def test_reach_of_large_frames_is_limited(monkeypatch):
    frames = [with_streaks(scene(), seed) for seed in range(4)]
    automatic = images(frames, Stand())
    assert all(map(np.array_equal, automatic, images(frames, Stand(), temporal=MOST_NEIGHBORS)))
    monkeypatch.setattr(temporal, "_BUDGET", 20 * frames[0].nbytes)
    automatic = images(frames, Stand())
    assert all(map(np.array_equal, automatic, images(frames, Stand(), temporal=1)))


def test_scale_is_chosen_once_a_shot():
    first = [with_streaks(scene(1), seed) for seed in range(5)]
    second = [with_streaks(scene(2), seed) for seed in range(10, 15)]
    scales = {
        frame.tobytes(): scale for frame, scale in zip([*first, *second], [2, 4, 4, 1, 1, 1, 1, 2, 8, 8], strict=True)
    }
    restorer = Stand(scales=scales)
    assert [frame.scale for frame in restore_frames([*first, *second], restorer)] == [4] * 5 + [1] * 5
    assert [scale for _, scale in restorer.restored] == [4] * 5 + [1] * 5
    known = restore_frames([*first, *second], Stand(scales=scales), scale=3.0)
    assert [frame.scale for frame in known] == [3] * 5 + [1] * 5


def test_each_frame_passes_through_the_network_once_and_few_are_read_ahead():
    rainy = [with_streaks(scene(), seed) for seed in range(3 * CONTEXT)]
    read = []
    restorer = Stand()

    def source():
        for i, frame in enumerate(rainy):
            read.append(i)
            yield frame

    for number, _ in enumerate(restore_frames(source(), restorer)):
        assert len(read) <= number + 1 + CONTEXT
    assert number + 1 == len(rainy)
    assert [frame for frame, _ in restorer.restored] == [frame.tobytes() for frame in rainy]


def test_part_of_a_video_is_restored_as_in_the_whole():
    """As when a run is resumed: `CONTEXT` frames on each side are enough."""
    rainy = [with_streaks(scene(), seed, 10) for seed in range(2 * CONTEXT + 3)]
    whole, part = images(rainy, Stand()), images(rainy[1 : 2 * CONTEXT + 2], Stand(), scale=1.0)
    assert np.array_equal(whole[CONTEXT + 1], part[CONTEXT])


def test_dry_video_that_stands_still_is_not_changed():
    frames = [scene()] * FRAMES
    assert all(np.array_equal(frame, scene()) for frame in images(frames, Stand(part=1)))


def test_noise_of_a_dry_video_stays():
    rng = np.random.default_rng(0)
    frames = [np.clip(scene() + 3 * rng.standard_normal((H, W, 3)), 0, 255).astype(np.uint8) for _ in range(FRAMES)]
    changed = np.abs(np.array(images(frames, Stand(part=0))).astype(int) - np.array(frames)).mean()
    assert changed < 0.15


@pytest.mark.parametrize("number", [0, 1, 2])
def test_short_videos(number):
    frames = [with_streaks(scene(), seed) for seed in range(number)]
    assert len(images(frames, Stand())) == number
    assert all(frame.starts_shot == (i == 0) for i, frame in enumerate(restore_frames(frames, Stand())))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 9)])
def test_small_frames(size):
    frames = [photo(*size, seed=seed, noise=0) for seed in range(4)]
    assert [frame.shape for frame in images(frames, Stand())] == [(*size, 3)] * 4


def test_off_is_the_network_alone(tiny):
    restorer = Restorer(tiny)
    frames = [photo(seed=seed) for seed in range(2)]
    assert all(map(np.array_equal, images(frames, restorer, temporal="off"), map(restorer, frames)))


def test_strength_0_keeps_the_frames(tiny):
    frames = [with_streaks(scene(), seed) for seed in range(3)]
    kept = images(frames, Restorer(tiny, strength=0))
    assert all(map(np.array_equal, kept, frames))


@pytest.mark.parametrize("temporal", [-1, MOST_NEIGHBORS + 1, True, 1.5, "on"])
def test_wrong_reach(temporal):
    with pytest.raises(ConfigError, match="temporal must be"):
        images([scene()], Stand(), temporal=temporal)


@pytest.mark.parametrize("restore", [temporal.restore_frames, burst.restore_burst])
def test_a_network_is_not_a_restorer(tiny, restore):
    with pytest.raises(ConfigError, match=r"^expected a Restorer such as Restorer\(model\), not DRSformer$"):
        restore([scene(), scene()], tiny)


def test_frames_may_be_read_into_one_array():
    video = [with_streaks(scene(), i) for i in range(4)]
    array = np.empty_like(video[0])

    def into_one():
        for frame in video:
            array[:] = frame
            yield array

    expected = [frame.image for frame in restore_frames(video, Stand())]
    for found, frame in zip(restore_frames(into_one(), Stand()), expected, strict=True):
        assert np.array_equal(found.image, frame)


def test_wrong_frames():
    with pytest.raises(ImageError, match="expected frames of shape"):
        images([scene()[..., 0]], Stand())
    with pytest.raises(ImageError, match=r"expected frames of shape .* not NoneType"):
        images([scene(), None, scene()], Stand())  # as OpenCV says that it cannot read an image
    with pytest.raises(ImageError, match="frame 1 is 95x72 uint8, but the one before it 96x72 uint8"):
        images([scene(), scene()[:, 1:]], Stand())
    assert drsformer.ImageError is ImageError
