"""Classify your own images with a trained network.

    python -m experiments.cifar10 predict --run RUN image.png ...

Images of any size are cropped to the square in their middle and resized to 32 x 32 pixels. Their
logits are averaged over the views of the run's settings and divided by its temperature. If a file
is not an image, an error names it, the others are classified, and the exit code is 2.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tag
from rich.console import Console
from rich.text import Text

from experiments.cifar10.backend import current_backend, data_mesh, prepare_cpu
from experiments.cifar10.commands.seeds import RUN_NAME
from experiments.cifar10.config import Config
from experiments.cifar10.results.evaluate import predict_all
from experiments.cifar10.training.programs import TrainingPrograms
from experiments.common import checkpoint
from experiments.common.command import (
    EXIT_USER_ERROR,
    UserError,
    one_line_errors,
    parse_options,
    printable,
)
from experiments.common.compile_cache import compile_cache
from experiments.common.run_folder import RunFolder, reading
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting
from xentjax import softmax

PROGRAM = "python -m experiments.cifar10 predict"
SIDE = 32
SHOWN = 3  # classes per image
WIDE_MODES = ("I", "F")  # prefixes of Pillow's modes with more than 8 bits
WHITE_IS_ZERO = 0  # a value of TIFF's PhotometricInterpretation


@dataclass(frozen=True)
class Command:
    """The images, and the network."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, of any format that Pillow can read."""
    run: Path
    """Folder of a finished run."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""


def read_image(path: Path) -> np.ndarray:
    """Read the square in the middle of an image, uint8 [32, 32, 3]; transparency becomes white.

    Raises:
        UserError: the file cannot be read as an image.
    """
    try:
        # Pillow warns of damage that it can skip, and of large images
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if image.format == "EPS":
                raise UserError(f"{path}: expected an image, got EPS, which is a program")
            white = _white(path, image) if image.mode.startswith(WIDE_MODES) else None
            ImageOps.exif_transpose(image, in_place=True)
            return _grey_square(image, white) if white else _square(image)
    except UserError:
        raise
    except Exception as error:  # a damaged image may raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: expected an image, got {reason.splitlines()[0]}") from None


def _white(path: Path, image: Image.Image) -> int:
    """Return the value of white in a grey image of more than 8 bits, which Pillow does not scale.

    Raises:
        UserError: the format, such as float or 32 bits, does not define it.
    """
    if "transparency" in image.info:
        raise UserError(
            f"{path}: expected 8 bits a channel or no transparency, got 16 bits with it"
        )
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales PPM's to 16 bits
        return 2**16 - 1
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(Tag.PhotometricInterpretation) != WHITE_IS_ZERO:
        return 2 ** tags.get(Tag.BitsPerSample, (16,))[0] - 1
    raise UserError(
        f"{path}: expected 8 bits a channel or 16 of grey from black to white, got {image.format} "
        f"in mode {image.mode}"
    )


def _grey_square(image: Image.Image, white: int) -> np.ndarray:
    square = ImageOps.fit(image.convert("F"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    grey = np.rint(np.asarray(square) * (255 / white)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _square(image: Image.Image) -> np.ndarray:
    is_opaque = not image.mode.endswith(("A", "a")) and "transparency" not in image.info
    mode = "RGB" if is_opaque else "RGBA"
    if image.mode not in (mode, "LA"):  # avoid a copy, the image may be large
        image = image.convert(mode)
    square = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)
    if not is_opaque:
        white = Image.new("RGBA", square.size, "white")
        square = Image.alpha_composite(white, square.convert("RGBA")).convert("RGB")
    return np.asarray(square)


def predict(run: Path, images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Predict the probabilities [N, K] of images, and return the names of the K classes.

    Args:
        run: folder of a finished run.
        images: uint8 [N, 32, 32, 3], at least one.

    Raises:
        UserError: the folder contains no finished run, or its checkpoint cannot be read.
    """
    folder = RunFolder.open(run, RUN_NAME)
    if (summary := folder.read_summary()) is None:
        raise UserError(
            f"{run}: expected the folder of a finished run, got one without a complete "
            "summary.json, which --resume writes"
        )
    config = Config.from_json(folder.config(), run)
    with reading(run / "summary.json"):
        class_names = tuple(map(str, summary["class_names"]))
        temperature = np.float32(summary["temperature"] or 1)
    backend = current_backend()
    # for one batch of images: the state has the same shapes
    programs = TrainingPrograms(
        config, backend, data_mesh(config.batch_size), config.batch_size, len(class_names)
    )
    state = checkpoint.restore(run, programs.shapes_of_state())
    side = config.image_side(programs.count.epochs - 1)
    logits = predict_all(
        lambda batch: programs.predict(state, programs.replicate(batch), side=side),
        images,
        config.views,
    )
    return np.asarray(softmax(logits / temperature)), class_names


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    prepare_cpu()
    with one_line_errors():
        command = parse_options(Command, argv, prog=PROGRAM, description=__doc__)
        if not command.images:
            raise UserError("images: expected at least one file")
        paths, images = [], []
        for path in command.images:
            try:
                images.append(read_image(path))
                paths.append(path)
            except UserError as error:
                print(f"error: {printable(str(error))}", file=sys.stderr)
        if images:
            console = Console()
            with (
                compile_cache(command.compile_cache),
                waiting(console, "reading the network, compiling and classifying"),
            ):
                probabilities, class_names = predict(command.run, np.stack(images))
            show(paths, probabilities, tuple(map(printable, class_names)), console)
        if len(images) < len(command.images):
            raise SystemExit(EXIT_USER_ERROR)


def show(
    paths: Sequence[Path],
    probabilities: np.ndarray,
    class_names: tuple[str, ...],
    console: Console,
) -> None:
    """Print the most probable classes of every image, and the names of all classes."""
    table = new_table(None, ("image", "class", "probability", "next"))
    table.columns[0].overflow = "fold"
    table.columns[1].justify = table.columns[3].justify = "left"
    for path, p in zip(paths, probabilities, strict=True):
        first, *others = np.argsort(-p, kind="stable")[:SHOWN]
        table.add_row(
            Text(printable(str(path))),
            Text(class_names[first]),
            f"{p[first]:.1%}",
            Text(", ".join(f"{class_names[k]} {p[k]:.1%}" for k in others)),
        )
    show_table(console, table)
    known = (
        f"The network knows {len(class_names)} classes, and assigns an image of anything else to "
        f"one of them: {', '.join(class_names)}."
    )
    console.print(Text(known))
