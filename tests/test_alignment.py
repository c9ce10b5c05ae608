"""Alignment of frames: the camera's motion, and moving an image by it."""

import cv2
import numpy as np
import pytest
from conftest import photo

from drsformer.alignment import Alignment, Motion, View, Warp, align, estimate_motion, is_confirmed

H, W = 90, 140
NOWHERE, EVERYWHERE = np.zeros((H, W), np.uint8), np.full((H, W), 255, np.uint8)


def by(image, motion, interpolation):
    """The image with the pixels that are a motion (H, W, 2) further, by one call of OpenCV."""
    x, y = np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32))
    there = np.dstack([x, y]) + motion
    return cv2.remap(image, there, None, interpolation, borderMode=cv2.BORDER_REPLICATE)


def translation(x, y):
    return np.array([[1, 0, x], [0, 1, y]], np.float64)


def displacements(camera):
    """The motion of each pixel, (H, W, 2)."""
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    here = np.dstack([x, y, np.ones((H, W))])
    return np.float32(here @ camera.T - here[..., :2])


def aligned(camera, apart=NOWHERE, motion=None, known=EVERYWHERE):
    motion = displacements(camera) if motion is None else motion
    return Warp(Alignment(motion, known, 1.0, camera, apart, photo(H, W)), H, W)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (4.3, -1.25), (-7.75, 0), (0.5, 30.0)])
@pytest.mark.parametrize("cubic", [False, True])
def test_translation_is_that_of_opencv(dtype, shift, cubic):
    image = photo(H, W, dtype=dtype)
    expected = by(image, np.float32(shift), cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR)
    moved = aligned(translation(*shift))(image, cubic=cubic)
    assert moved.shape == image.shape
    assert moved.dtype == dtype
    inside = (slice(8, -31), slice(9, -9))  # what comes from outside of the other frame is unknown
    error = np.abs(moved.astype(float) - expected)[inside] / np.iinfo(dtype).max
    # OpenCV knows 32 positions between two pixels.
    assert error.max() <= (0.02 if any(np.mod(np.multiply(shift, 32), 1)) else 0.005)


def test_translation_beyond_the_frame_repeats_its_edge():
    moved = aligned(translation(500, -400))(photo(H, W), cubic=True)
    assert np.array_equal(moved, np.broadcast_to(photo(H, W)[:1, -1:], (H, W, 3)))


TURN = np.array([[1.01, -0.02, 1.7], [0.02, 0.99, -2.3]])


def area_of(parts):
    return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in parts)


@pytest.mark.parametrize("camera", [translation(2, 0), TURN], ids=["translation", "turn"])
def test_each_pixel_is_moved_by_its_motion(camera):
    motion = displacements(camera)
    there = (slice(30, 50), slice(60, 80))
    motion[there] = (-3.5, 1.25)
    apart = NOWHERE.copy()
    apart[there] = 255
    warp = aligned(camera, apart, motion)
    assert 400 <= area_of(warp.apart) < H * W / 4 or camera is TURN  # most just follow a translation
    image = cv2.GaussianBlur(photo(H, W), (0, 0), 2)
    expected = by(image, motion, cv2.INTER_CUBIC)
    assert np.abs(warp(image, cubic=True).astype(int) - expected)[4:-4, 4:-4].max() <= 2
    unknown = EVERYWHERE - apart
    assert not aligned(camera, apart, motion, unknown).apart or camera is TURN  # nobody looks at it


def test_parts_cover_what_moves_in_frames_larger_than_views():
    height, width = 601, 1117  # not a whole multiple of the view
    h, w = round(height * 512 / width), 512
    apart = np.zeros((h, w), np.uint8)
    apart[h - 1, w - 1] = apart[0, 0] = apart[100, 200] = 255
    motion = np.zeros((h, w, 2), np.float32)
    motion[apart > 0] = 5
    warp = Warp(Alignment(motion, apart, width / 512, None, apart, photo(h, w)), height, width)
    covered = np.zeros((height, width), bool)
    for part in warp.apart:
        covered[part] = True
    assert covered[warp.interpolated > 0].all()
    assert covered.mean() < 0.05


@pytest.mark.parametrize(
    "camera",
    [[[1, 0, 3.3], [0, 1, -1.6]], [[1.02, 0, -2.4], [0, 1.02, 1.1]], [[1, -0.02, 4.2], [0.02, 1, -1.7]]],
    ids=["translation", "zoom", "rotation"],
)
def test_camera_is_found_behind_streaks(camera):
    camera = np.array(camera, np.float64)
    h, w = 240, 352
    rng = np.random.default_rng(5)
    scene = cv2.resize(
        rng.integers(20, 150, (h // 6, w // 6, 3)).astype(np.uint8), (w, h), interpolation=cv2.INTER_CUBIC
    )
    other = cv2.warpAffine(scene, camera, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    def streaked(frame):
        layer = np.zeros((h, w), np.float32)
        for x, y in zip(rng.integers(0, w, 300), rng.integers(-10, h, 300), strict=True):
            cv2.line(layer, (int(x), int(y)), (int(x) + 3, int(y) + 14), 40, 1)
        return np.clip(frame + layer[..., None], 0, 255).astype(np.uint8)

    found = estimate_motion(View(streaked(scene)), View(streaked(other))).camera
    assert found is not None
    corners = np.array([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]], np.float64)
    assert np.abs(corners @ (found - camera).T).max() < 0.25  # pixels


def test_motions_of_the_camera_follow_each_other():
    turn = Motion(np.array([[1, -0.02, 4.2], [0.02, 1, -1.7]]), None, None)
    shift = Motion(np.array([[1, 0, 3.5], [0, 1, -2.25]]), None, None)
    stands = Motion(None, None, None)
    point = np.array([20.0, 30.0, 1.0])
    there = turn.camera @ point
    assert np.allclose(turn.then(shift).camera @ point, shift.camera @ [*there, 1])
    assert np.allclose(shift.then(turn).camera @ point, turn.camera @ [*(shift.camera @ point), 1])
    assert shift.then(shift).camera.tolist() == [[1, 0, 7], [0, 1, -4.5]]  # a translation, exactly
    assert stands.then(turn).camera is turn.camera is turn.then(stands).camera
    assert stands.then(stands).camera is None


@pytest.mark.parametrize(("side", "shift", "is_followed"), [(14, 1, False), (40, 2, True)])
def test_what_covers_little_of_its_surroundings_is_unknown_rather_than_moved(side, shift, is_followed):
    def drawn(seed):
        coarse = np.random.default_rng(seed).integers(20, 230, (12, 18, 3)).astype(np.uint8)
        return cv2.resize(coarse, (144, 96), interpolation=cv2.INTER_CUBIC)

    frame, thing = drawn(1), drawn(2)
    other = frame.copy()
    here, there = slice(20, 20 + side), slice(20 + shift, 20 + shift + side)
    frame[here, here] = other[here, there] = thing[here, here]
    view, of_other = View(frame), View(other)
    known = align(view, of_other, estimate_motion(view, of_other)).known > 0
    assert known.mean() > 0.8
    share = known[here, here].mean()
    assert share > 0.5 if is_followed else share == 0


def test_motion_is_confirmed_by_another_way():
    motion = Motion(translation(3, 1), None, None)
    about_the_same, none, turned = (Motion(camera, None, None) for camera in (translation(3.5, 0.5), None, TURN))
    assert is_confirmed(motion, [none, about_the_same], H, W)
    assert not is_confirmed(motion, [none, turned], H, W)
    assert not is_confirmed(motion, [], H, W)
    assert is_confirmed(Motion(TURN, None, None), [none, turned], H, W)


def test_what_moves_is_unknown_in_frames_without_a_flow():
    still = photo(H, W, noise=0)
    moved = still.copy()
    moved[30:60, 50:90] = 255 - moved[30:60, 50:90]
    alignment = align(View(still), View(moved), Motion(None, None, None))
    assert alignment.motion is None
    assert not alignment.known[35:55, 55:85].any()
    assert alignment.known[:15].all()


@pytest.mark.parametrize("gains", [(1.2, 1.2, 1.2), (0.7, 0.7, 0.7), (1.1, 1.0, 0.9)])
def test_exposure_is_found_although_something_moves(gains):
    image = photo(H, W, noise=0) // 2 + np.uint8(40)
    other = np.rint(image / np.float32(gains)).astype(np.uint8)
    other[30:60, 50:90] = 255 - other[30:60, 50:90]
    alignment = align(View(image), View(other), Motion(None, None, None))
    assert np.allclose(alignment.gains, gains, atol=0.01)
    known = Warp(alignment, H, W).known > 0
    assert known.mean() > 0.5
    assert np.abs(Warp(alignment, H, W)(other).astype(int) - image)[known].max() <= 2


def test_rain_that_is_left_is_no_change_of_the_exposure():
    image = photo(H, W) // 2 + np.uint8(40)
    rng = np.random.default_rng(0)
    rainy = image.copy()
    for x, y in rng.integers(0, (W, H), (150, 2)):
        cv2.line(rainy, (int(x), int(y)), (int(x) + 2, int(y) + 15), (200, 200, 200), 1)
    assert align(View(image), View(rainy), Motion(None, None, None)).gains is None
    assert align(View(image), View(image), Motion(None, None, None)).gains is None
    hazy = image + np.uint8(12)  # dense rain that is left, too
    assert align(View(image), View(hazy), Motion(None, None, None)).gains is None


def test_nothing_is_known_of_frames_whose_exposures_cannot_be_compared():
    image = photo(H, W) // 2 + np.uint8(40)
    for other in (np.zeros_like(image), np.clip(1.5 * image.astype(float) + 45, 0, 255).astype(np.uint8)):
        assert not align(View(image), View(other), Motion(None, None, None)).known.any()
    black = np.zeros_like(image)
    assert align(View(black), View(black), Motion(None, None, None)).known.all()
