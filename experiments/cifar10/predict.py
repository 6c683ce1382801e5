"""Classify your own images with a trained network.

    python -m experiments.cifar10 predict --run RUN image.png ...

Images of any size are cut to the square in their middle and resized to 32 x 32 pixels. The
probabilities are averaged over the views of the run's settings and calibrated by its temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments._command import UserError, one_line_errors, parse_options
from experiments._records import RunFolder, reading
from experiments.cifar10 import checkpoint
from experiments.cifar10.backend import current_backend, data_mesh, prepare_cpu
from experiments.cifar10.config import Config
from experiments.cifar10.evaluate import predict_all
from experiments.cifar10.programs import Programs
from experiments.cifar10.seeds import RUN_NAME
from experiments.cifar10.step import make_training
from xentjax import softmax

PROGRAM = "python -m experiments.cifar10 predict"
SIDE = 32
SHOWN = 3  # classes of an image


@dataclass(frozen=True)
class Command:
    """Which images, and by which network."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, of any format that Pillow reads."""
    run: Path
    """Folder of a finished training."""


def read_image(path: Path) -> np.ndarray:
    """The square in the middle of an image, uint8 [32, 32, 3]; transparent pixels are white.

    Raises:
        UserError: it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # Pillow would cut, not scale, its 16 bits
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: expected an image, got {reason}") from None
    white = Image.new("RGBA", upright.size, "white")
    opaque = Image.alpha_composite(white, upright).convert("RGB")
    return np.asarray(ImageOps.fit(opaque, (SIDE, SIDE), Image.Resampling.LANCZOS))


def predict(run: Path, images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Probabilities [N, K] of images uint8 [N, 32, 32, 3], and the names of the K classes.

    Args:
        run: folder of a finished training.
        images: at least one.

    Raises:
        UserError: the folder holds no finished training, or its checkpoint cannot be read.
    """
    folder = RunFolder.open(run, RUN_NAME)
    if (summary := folder.read_summary()) is None:
        raise UserError(
            f"{run}: expected the folder of a finished training, got one without a whole "
            "summary.json, which --resume writes"
        )
    config = Config.from_json(folder.config())
    with reading(run / "summary.json"):
        class_names = tuple(map(str, summary["class_names"]))
        temperature = np.float32(summary["temperature"] or 1)
    backend = current_backend()
    # of a training on one batch, which has a state of the same shapes
    training = make_training(
        config, backend, data_mesh(config.batch_size), config.batch_size, len(class_names)
    )
    state = checkpoint.restore(run, training.initial_state(0, images[:1]))
    program = Programs(training.predict, backend.compiler_options)
    side = config.image_side(training.length.epochs - 1)
    logits = predict_all(
        lambda batch: program(state, training.put(batch), side=side), images, config.views
    )
    return np.asarray(softmax(logits / temperature)), class_names


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prepare_cpu()
    with one_line_errors():
        command = parse_options(Command, argv, prog=PROGRAM, description=__doc__)
        if not command.images:
            raise UserError("images: expected at least one file")
        images = np.stack([read_image(path) for path in command.images])
        probabilities, class_names = predict(command.run, images)
        table = Table()
        for heading in ("image", "class", "probability", "next"):
            table.add_column(heading, justify="right" if heading == "probability" else "left")
        for path, p in zip(command.images, probabilities, strict=True):
            first, *others = np.argsort(-p, kind="stable")[:SHOWN]
            table.add_row(
                Text(str(path)),
                class_names[first],
                f"{p[first]:.1%}",
                ", ".join(f"{class_names[k]} {p[k]:.1%}" for k in others),
            )
        Console().print(table)
