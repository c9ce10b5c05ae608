"""Contact sheets."""

import numpy as np
from conftest import photo

from drsformer_cli import sheet


def test_rows_of_images_under_their_text():
    row = sheet.row("a", [photo(40, 56), photo(40, 56, seed=1)])
    assert row.shape == (40 + 22, 2 * 56 + 4, 3)
    assert np.array_equal(row[22:, :56], photo(40, 56))
    assert np.array_equal(row[22:, 60:], photo(40, 56, seed=1))
    assert (row[:22] == 0).any()


def test_large_images_shrink_and_the_smallest_stays():
    assert sheet.row("a", [photo(100, 1000)]).shape == (40 + 22, 400, 3)
    assert sheet.row("", [photo(1, 1)]).shape == (23, 4, 3)


def test_text_is_never_cut():
    assert sheet.row("psnr 31.26, ssim 0.9471", [photo(10, 20)]).shape[1] > 120


def test_stack_pads_with_white():
    stacked = sheet.stack([sheet.row("a", [photo(10, 20)]), sheet.row("b", [photo(10, 50)])])
    assert stacked.shape == (2 * (10 + 22 + 4), 50, 3)
    assert (stacked[22:32, 20:] == 255).all()


def test_error_map_goes_from_black_to_white():
    clean = np.full((2, 2, 3), 100, np.uint8)
    restored = clean.copy()
    restored[0, 0] = 164
    restored[1, 1] = 110
    shown = sheet.error_map(restored, clean)
    assert shown[0, 1].tolist() == [0, 0, 0]
    assert shown[0, 0].min() > 240
    assert shown[1, 1, 0] > shown[1, 1, 2]
