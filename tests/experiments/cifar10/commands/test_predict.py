"""Predictions for image files: those of the run itself, and one line for what is no image."""

import io
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments.cifar10.commands.predict import main, predict, read_image, show
from experiments.cifar10.results.evaluate import Result
from experiments.cifar10.training.run import run
from experiments.common import checkpoint
from experiments.common.command import UserError
from experiments.common.run_folder import RunFolder
from tests.support.run_folders import error_line
from tests.support.tiny_training import CLASSES, CONFIG, DATASET

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3), np.uint8)
GREY = PIXELS[..., 0]


def saved(image: Image.Image, path: Path, **options: Any) -> np.ndarray:
    """Read an image back after saving it."""
    image.save(path, **options)
    pixels = read_image(path)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    return pixels


def test_a_png_of_the_right_size_is_read_as_it_is(tmp_path):
    np.testing.assert_array_equal(saved(Image.fromarray(PIXELS), tmp_path / "a.png"), PIXELS)


def test_a_jpeg_is_read_up_to_its_compression(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(32))[..., None] * np.array([4, 2, 1])
    smooth = smooth.astype(np.uint8)
    read = saved(Image.fromarray(smooth), tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read.astype(int), smooth, atol=8)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_have_three_equal_channels(tmp_path, mode):
    image = Image.fromarray(GREY).convert(mode)
    read = saved(image, tmp_path / "a.png")
    np.testing.assert_array_equal(read, np.asarray(image.convert("L"))[..., None].repeat(3, -1))


def test_grey_of_16_bits_is_scaled_not_cut(tmp_path):
    grey = PIXELS[..., 0].astype(np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "grey.png")
    read = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(read, np.repeat(PIXELS[..., :1], 3, axis=-1))


GREY_12 = np.rint(GREY * (4095 / 255)).astype(np.uint16)
GREY_16 = GREY.astype(np.uint16) * 257


def tiff(pixels: bytes, bits: int, **tags: int) -> bytes:
    """A grey image of 32 x 32, as the TIFF 6.0 specification has it."""
    numbers = {"photometric": 262, "sample_format": 339}
    given = {numbers[name]: value for name, value in tags.items()}
    entries = {256: 32, 257: 32, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: 32} | given
    entries[279] = len(pixels)
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4) + pixels


def packed(values: np.ndarray) -> bytes:
    """Numbers of 12 bits, two in three bytes."""
    first, second = values.ravel()[0::2], values.ravel()[1::2]
    three = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(three, -1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"P5 32 32 4095\n" + GREY_12.astype(">u2").tobytes(),
        b"P5 32 32 65535\n" + GREY_16.astype(">u2").tobytes(),
        b"P2 32 32 4095\n" + " ".join(map(str, GREY_12.ravel())).encode(),
        b"P6 32 32 4095\n" + GREY_12[..., None].repeat(3, -1).astype(">u2").tobytes(),
        tiff(GREY_16.astype("<u2").tobytes(), 16),
        tiff(packed(GREY_12), 12),
    ],
    ids=["PGM, 12", "PGM, 16", "PGM as text, 12", "PPM, 12", "TIFF, 16", "TIFF, 12"],
)
def test_grey_of_more_than_8_bits_is_scaled_to_8(tmp_path, content):
    (tmp_path / "grey").write_bytes(content)
    read = read_image(tmp_path / "grey")
    np.testing.assert_array_equal(read, GREY[..., None].repeat(3, -1))


def test_grey_of_16_bits_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    read = saved(Image.fromarray(GREY_16[::-1, ::-1]), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read, GREY[..., None].repeat(3, -1))


def test_grey_of_16_bits_in_32_is_scaled(tmp_path, monkeypatch):
    """Pillow 10.0 reads a PNG of 16 bits in this mode."""
    Image.fromarray(GREY_16).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        wide = Image.fromarray(np.asarray(image).astype(np.int32))
    wide.format = "PNG"
    monkeypatch.setattr(Image, "open", lambda path: wide)
    read = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(read, GREY[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (tiff((GREY_16.astype("<u4") << 16).tobytes(), 32), "I"),
        (tiff(GREY_16.astype("<i4").tobytes(), 32, sample_format=2), "I"),
        (tiff((GREY / 255).astype("<f4").tobytes(), 32, sample_format=3), "F"),
        (tiff((65535 - GREY_16).tobytes(), 16, photometric=0), "I;16"),
    ],
    ids=["32 bits", "signed", "float", "white is zero"],
)
def test_grey_of_a_scale_that_is_not_known_is_refused(tmp_path, content, mode):
    (tmp_path / "grey.tif").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "grey.tif")
    assert str(caught.value) == (
        f"{tmp_path / 'grey.tif'}: expected 8 bits a channel or 16 of grey from black to white, "
        f"got TIFF in mode {mode}"
    )


def test_a_program_is_no_image(tmp_path):
    """Pillow would have Ghostscript run it."""
    program = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
    (tmp_path / "a.png").write_text(program)
    with pytest.raises(UserError, match="expected an image, got EPS, which is a program"):
        read_image(tmp_path / "a.png")


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(GREY % 4).convert("P")
    colours = np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3], [9, 99, 199]], np.uint8)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(saved(image, tmp_path / "a.png"), colours[GREY % 4])


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.where(np.arange(32) < 16, 0, 255).astype(np.uint8)
    with_alpha = np.dstack([PIXELS, np.tile(alpha, (32, 1))])
    read = saved(Image.fromarray(with_alpha), tmp_path / "a.png")
    np.testing.assert_array_equal(read[:, :16], 255)
    np.testing.assert_array_equal(read[:, 16:], PIXELS[:, 16:])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, PIXELS), (3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS))],
)
def test_a_camera_held_upright_is_believed(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = saved(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read, upright)


@pytest.mark.parametrize("wide", [True, False], ids=["wide", "tall"])
def test_the_square_in_the_middle_is_taken(tmp_path, wide):
    """Make an image whose middle is PIXELS, each four times, between two black borders."""
    large = np.pad(PIXELS.repeat(2, 0).repeat(2, 1), ((0, 0), (20, 20), (0, 0)))
    if not wide:
        large = large.swapaxes(0, 1)
    expected = np.asarray(Image.fromarray(large).crop((20, 0, 84, 64) if wide else (0, 20, 64, 84)))
    read = saved(Image.fromarray(large), tmp_path / "a.png").astype(int)
    # averages of 2x2 up to the filter's reach: the squares' own colour, in the mean
    own = expected.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.corrcoef(read.ravel(), own.ravel())[0, 1] > 0.9
    assert read[:, [0, -1]].mean() > 100  # no border is seen


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:1500]
    (tmp_path / "half.png").write_bytes(half)
    for name in ("notes.txt", "empty.png", "half.png", "missing.png", "."):
        path = tmp_path / name
        with pytest.raises(UserError) as caught:
            read_image(path)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{path}: expected an image, got ")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "AVIF"])
def test_random_damage_is_one_line_or_an_image(tmp_path, format):
    """A hundred images of every format with wrong bytes, most of them in the headers."""
    Image.init()
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    sources = [Image.fromarray(PIXELS), Image.fromarray(GREY)]
    path = tmp_path / "image"
    rng = np.random.default_rng(0)
    problems = []
    for count in range(100):
        buffer = io.BytesIO()
        sources[count % 2].save(buffer, format, exif=exif)
        content = bytearray(buffer.getvalue())
        for _ in range(1 + count % 4):
            place = rng.integers(len(content)) if count % 3 else rng.exponential(60)
            content[min(int(place), len(content) - 1)] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert read_image(path).shape == (32, 32, 3)
        except UserError as error:
            problems.append(str(error))
    assert len(problems) > 5
    assert all(problem.startswith(f"{path}: expected ") for problem in problems)
    assert not any("\n" in problem for problem in problems)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = RunFolder.create("cifar10", CONFIG, tmp_path_factory.mktemp("runs"))
    return folder.path, run(CONFIG, DATASET, folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test images."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"image {i}.png" for i in range(len(DATASET.test_images))]
    for path, pixels in zip(paths, DATASET.test_images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def test_probabilities_are_the_runs_own_calibrated_ones(finished, files):
    folder, result = finished
    images = np.stack([read_image(path) for path in files])
    np.testing.assert_array_equal(images, DATASET.test_images)
    probabilities, class_names = predict(folder, images)
    assert class_names == CLASSES
    assert result.calibrated is not None
    np.testing.assert_allclose(probabilities, result.calibrated.probabilities, rtol=1e-5, atol=1e-7)


def test_the_command_names_class_and_probability_of_every_file(finished, files, capsys):
    folder, result = finished
    main([*map(str, files[:3]), "--run", str(folder)])
    printed = capsys.readouterr().out
    for p in result.calibrated.probabilities[:3]:
        assert f"{CLASSES[p.argmax()]}" in printed
        assert f"{p.max():.1%}" in printed


def test_one_bad_image_does_not_stop_the_others(finished, files, tmp_path, capsys):
    folder, result = finished
    bad = tmp_path / "bad\x1b[31m.png"
    bad.write_bytes(files[1].read_bytes()[:200])
    good = tmp_path / "good\x1b[31m.png"
    shutil.copy(files[0], good)
    names = map(str, [good, bad, files[2], tmp_path / "none.png"])
    with pytest.raises(SystemExit) as caught:
        main([*names, "--run", str(folder)])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    assert first.startswith(f"error: {tmp_path}/bad\\x1b[31m.png: expected an image, got ")
    assert second == f"error: {tmp_path}/none.png: expected an image, got No such file or directory"
    assert "\x1b" not in printed.out
    for p in result.calibrated.probabilities[[0, 2]]:
        assert f"{CLASSES[p.argmax()]}" in printed.out
        assert f"{p.max():.1%}" in printed.out


def test_only_bad_images_are_lines_only(finished, tmp_path, capsys):
    folder, _ = finished
    line = error_line(main, [str(tmp_path / "none.png"), "--run", str(folder)], capsys)
    assert line == f"error: {tmp_path}/none.png: expected an image, got No such file or directory"


def test_the_command_says_which_classes_there_are(finished, files, tmp_path, capsys):
    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    summary = json.loads((copy / "summary.json").read_text())
    summary["class_names"] = ["\x1b[31m" + name for name in CLASSES]
    (copy / "summary.json").write_text(json.dumps(summary))
    main([str(files[0]), "--run", str(copy)])
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"The network knows {len(CLASSES)} classes, and assigns an image of anything else" in shown
    )
    shown_names = ", ".join("\\x1b[31m" + name for name in CLASSES)
    assert f"one of them: {shown_names}." in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_width_cuts_a_name(width):
    path = Path("/home/someone/pictures of the summer") / ("a long name of a file " * 4 + ".png")
    names = ("automobile", "a class of several words", "x")
    output = io.StringIO()
    show([path], np.array([[0.25, 0.625, 0.125]]), names, Console(file=output, width=width))
    assert "…" not in output.getvalue()
    shown = re.sub(r"[\s│]+", "", output.getvalue())
    assert "".join(names[1].split()) in shown
    assert "62.5%" in shown
    if width == 120:
        assert "automobile 25.0%, x 12.5%" in output.getvalue()
    else:
        assert "automobile25.0%,x12.5%" in shown


def test_a_grey_png_of_16_bits_with_a_transparent_value_is_refused(tmp_path):
    """Pillow would have to be told which pixels are transparent, and paint them white."""
    Image.fromarray(GREY_16).save(tmp_path / "a.png", transparency=int(GREY_16[0, 0]))
    with pytest.raises(UserError, match=r"a\.png: expected 8 bits a channel or no transparency"):
        read_image(tmp_path / "a.png")


def test_without_a_temperature_the_logits_are_used_as_they_are(finished, tmp_path):
    folder, result = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"temperature": None}))
    probabilities, _ = predict(copy, DATASET.test_images)
    np.testing.assert_allclose(probabilities, result.test.probabilities, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["no folder", "unfinished", "no checkpoint"])
def test_a_run_that_cannot_predict_is_one_line(finished, files, tmp_path, capsys, kind):
    folder, _ = finished
    copy = tmp_path / "run"
    if kind != "no folder":
        shutil.copytree(folder, copy)
    if kind == "unfinished":
        (copy / "summary.json").unlink()
    if kind == "no checkpoint":
        shutil.rmtree(copy / checkpoint.FOLDER)
    line = error_line(main, [str(files[0]), "--run", str(copy)], capsys)
    assert line.startswith(f"error: {copy}: expected ")


def test_no_image_is_one_line(finished, capsys):
    folder, _ = finished
    assert "images: expected at least one file" in error_line(main, ["--run", str(folder)], capsys)
