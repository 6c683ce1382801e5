"""Augmentation and views against np.pad, and the plan that mirrors images in turn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.config import ViewsName
from experiments.cifar10.data.augment import (
    MEAN,
    STANDARD_DEVIATION,
    EpochPlan,
    blank,
    normalize,
    plan_epoch,
    shift_and_flip,
    shrink,
    take_batch,
    views,
)
from tests.support.tolerances import VALUE

N, SHIFT, BATCH = 24, 2, 8
# every pixel differs from all others, so an image tells how it was moved
IMAGES = np.random.default_rng(0).permutation(N * 5 * 4 * 3).reshape(N, 5, 4, 3).astype(np.int32)
OFFSETS = [(dy, dx) for dy in range(-SHIFT, SHIFT + 1) for dx in range(-SHIFT, SHIFT + 1)]


def plan(seed: int = 0, epoch: int = 0, *, flip: bool = True) -> EpochPlan:
    return plan_epoch(jax.random.key(seed), epoch, N, flip=flip)


def moved(image: np.ndarray, offset: tuple[int, int], flip: bool) -> np.ndarray:
    """The image cut out of one that np.pad reflects, then mirrored."""
    height, width = image.shape[:2]
    pad = 3
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    y, x = pad + offset[0], pad + offset[1]
    cut = padded[y : y + height, x : x + width]
    return cut[:, ::-1] if flip else cut


@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_mirrored_every_other_epoch(seed):
    flips = np.stack([plan(seed, epoch).flips for epoch in range(4)])
    assert (flips[1:] != flips[:-1]).all()
    assert 0.2 < flips[0].mean() < 0.8


def test_without_flip_no_image_is_mirrored():
    assert not any(np.asarray(plan(0, epoch, flip=False).flips).any() for epoch in range(2))


def test_order_is_a_permutation_of_its_own_in_every_epoch_and_run():
    orders = [np.asarray(plan(seed, epoch).order) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert len({order.tobytes() for order in orders}) == len(orders)


def test_different_runs_mirror_different_images():
    assert (np.asarray(plan(0).flips) != np.asarray(plan(1).flips)).any()


@pytest.mark.parametrize("flip", [False, True], ids=["as it is", "mirrored"])
def test_shift_and_flip_is_np_pad_and_crop(flip):
    offsets = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]  # up to width - 1
    indices = np.arange(len(offsets), dtype=np.int32) % N
    actual = shift_and_flip(
        jnp.asarray(IMAGES),
        jnp.asarray(indices),
        jnp.asarray(offsets, jnp.int32),
        jnp.full(len(offsets), flip),
    )
    expected = [moved(IMAGES[i], o, flip) for i, o in zip(indices, offsets, strict=True)]
    np.testing.assert_array_equal(actual, np.stack(expected))


def test_shift_and_flip_keeps_bytes():
    images = jnp.asarray(IMAGES % 256, jnp.uint8)
    one = jnp.zeros(1, jnp.int32)
    assert shift_and_flip(images, one, jnp.zeros((1, 2), jnp.int32), jnp.ones(1, bool)).dtype == (
        jnp.uint8
    )


take = jax.jit(take_batch, static_argnums=3, static_argnames=("shift", "cutout"))


def batch_of(
    epoch: EpochPlan, step: int, shift: int = SHIFT, cutout: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    batch, indices = take(
        jnp.asarray(IMAGES), epoch, jnp.int32(step), BATCH, shift=shift, cutout=cutout
    )
    return np.asarray(batch), np.asarray(indices)


def test_batches_follow_the_order_and_move_every_image_within_the_shift():
    offsets = set()
    for epoch in (plan(0, e) for e in range(3)):
        batches = [batch_of(epoch, step) for step in range(N // BATCH)]
        visited = np.concatenate([indices for _, indices in batches])
        np.testing.assert_array_equal(visited, epoch.order)
        for image, index in zip(np.concatenate([b for b, _ in batches]), visited, strict=True):
            (offset,) = [
                o
                for o in OFFSETS
                if np.array_equal(image, moved(IMAGES[index], o, bool(epoch.flips[index])))
            ]
            offsets.add(offset)
    assert {dy for dy, _ in offsets} == {dx for _, dx in offsets} == set(range(-SHIFT, SHIFT + 1))


def test_without_shift_images_are_only_mirrored():
    epoch = plan()
    batch, indices = batch_of(epoch, 1, shift=0)
    expected = [moved(IMAGES[i], (0, 0), bool(epoch.flips[i])) for i in indices]
    np.testing.assert_array_equal(batch, np.stack(expected))


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    def batch(seed: int, epoch: int, step: int) -> bytes:
        return batch_of(plan(seed, epoch), step)[0].tobytes()

    places = [(seed, epoch, step) for seed in range(2) for epoch in range(2) for step in range(2)]
    batches = [batch(*place) for place in places]
    assert batches == [batch(*place) for place in reversed(places)][::-1]
    assert len(set(batches)) == len(places)


def test_the_same_images_are_shifted_otherwise_in_another_step_and_epoch():
    # one order for all, so that only the shifts can differ
    still = jnp.tile(jnp.arange(BATCH, dtype=jnp.int32), N // BATCH)
    never = jnp.zeros(N, bool)
    epochs = [EpochPlan(plan(0, e).key, still, never) for e in (0, 1)]
    batches = {batch_of(epoch, step)[0].tobytes() for epoch in epochs for step in (0, 1)}
    assert len(batches) == 4


CUTOUT = 2
GREY = np.round(255 * np.array(MEAN)).astype(np.int32)


@pytest.mark.parametrize("side", [1, 3, 9], ids=["a pixel", "a square", "more than there is"])
def test_blank_is_an_assignment_to_a_slice(side):
    corners = [(0, 0), (2, 1), (4, 3), (1, 0)]
    images = IMAGES[: len(corners)]
    expected = images.copy()
    for image, (y, x) in zip(expected, corners, strict=True):
        image[y : y + side, x : x + side] = GREY
    actual = blank(jnp.asarray(images), jnp.asarray(corners, jnp.int32), side)
    np.testing.assert_array_equal(actual, expected, strict=True)


def test_cutout_blanks_a_square_anywhere_inside_and_changes_nothing_else():
    corners = set()
    for epoch, step in [(e, s) for e in range(3) for s in range(N // BATCH)]:
        uncut, of_uncut = batch_of(plan(0, epoch), step)
        cut, indices = batch_of(plan(0, epoch), step, cutout=CUTOUT)
        np.testing.assert_array_equal(indices, of_uncut)
        for before, after in zip(uncut, cut, strict=True):
            blanked = (before != after).any(-1)
            y, x = np.argwhere(blanked)[0]
            expected = np.zeros((5, 4), bool)
            expected[y : y + CUTOUT, x : x + CUTOUT] = True
            np.testing.assert_array_equal(blanked, expected)
            np.testing.assert_array_equal(after[blanked], np.tile(GREY, (CUTOUT**2, 1)))
            corners.add((int(y), int(x)))
    assert corners == {(y, x) for y in range(5 - CUTOUT + 1) for x in range(4 - CUTOUT + 1)}


LOOKS: dict[ViewsName, list[tuple[float, tuple[int, int], bool]]] = {
    "plain": [(1, (0, 0), False)],
    "mirrored": [(1 / 2, (0, 0), False), (1 / 2, (0, 0), True)],
    # airbench: half of the weight is that of the image and its mirror image
    "mirrored_and_shifted": [
        (1 / 4, (0, 0), False),
        (1 / 4, (0, 0), True),
        (1 / 8, (-1, -1), False),
        (1 / 8, (-1, -1), True),
        (1 / 8, (1, 1), False),
        (1 / 8, (1, 1), True),
    ],
}


@pytest.mark.parametrize("which", LOOKS)
def test_views_are_what_np_pad_cuts_out(which: ViewsName):
    images = IMAGES[:3].astype(np.float32)
    actual = views(images, which)
    assert sum(weight for weight, _ in actual) == 1
    for (weight, view), (expected, offset, flip) in zip(actual, LOOKS[which], strict=True):
        assert weight == expected
        np.testing.assert_array_equal(view, np.stack([moved(i, offset, flip) for i in images]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_normalize_subtracts_the_mean_and_divides_by_the_deviation(dtype: Any):
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    expected = (images / 255 - np.array(MEAN)) / np.array(STANDARD_DEVIATION)
    actual = normalize(jnp.asarray(images), dtype)
    assert actual.dtype == dtype
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error <= 2.2 * (VALUE["float32"] if dtype == jnp.float32 else 2**-8)  # values reach 2.2


@pytest.mark.parametrize("side", [9, 12, 31])
def test_shrink_keeps_a_constant_image_constant(side):
    images = jnp.full((2, 32, 32, 3), 1.7, jnp.float32)
    actual = np.asarray(shrink(images, side))
    assert actual.shape == (2, side, side, 3)
    np.testing.assert_allclose(actual, 1.7, rtol=VALUE["float32"])


def test_shrink_to_half_averages_with_a_triangle():
    image = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    # a triangle of half-width 2 around each output's centre, cut off and renormalised at the border
    centres = 2 * np.arange(4) + 0.5
    weights = np.clip(2 - np.abs(np.arange(8)[None] - centres[:, None]), 0, None)
    weights /= weights.sum(1, keepdims=True)
    actual = shrink(jnp.asarray(image)[None, :, :, None], 4)[0, :, :, 0]
    np.testing.assert_allclose(actual, weights @ image @ weights.T, rtol=1e-5, atol=1e-6)


def test_shrink_to_its_own_side_changes_nothing():
    images = jnp.asarray(np.random.default_rng(2).normal(size=(2, 9, 9, 3)), jnp.float32)
    assert shrink(images, 9) is images
