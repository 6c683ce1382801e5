"""A training step of the CIFAR-10 networks: images per second, compared with PyTorch."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import jax.numpy as jnp

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import NO_TORCH, OURS, TORCH, load_torch
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from experiments.cifar10.backend import current_backend, prepare_cpu
from experiments.cifar10.config import PRESETS, Config, PresetName
from experiments.cifar10.data.load import Dataset, find_cifar10, load_cifar10
from experiments.cifar10.torch_step import NUM_CLASSES, torch_step, xentjax_step
from experiments.cifar10.training.run import run as run_training
from experiments.common.run_folder import RunFolder

NOTES = (
    "a step: gather, shift, mirror, normalise and shrink a batch of uint8 images, forward, "
    "backward, Nesterov descent with decay, lookahead every fifth step",
    "torch: the same in eager mode, channels last, on all cores; random data for both, and a C "
    "library that keeps freed memory, which both use",
    "torch.compile: the same step with network and augmentation compiled, by the default settings",
    "torch.autocast: the eager step with convolutions in bfloat16, where the processor multiplies "
    "bfloat16; there xentjax rounds the factors of its convolutions to bfloat16",
)
COMPILED, AUTOCAST = "torch.compile", "torch.autocast"
BASELINES = (TORCH, AUTOCAST, COMPILED)
LEGEND = ("images/s: xentjax's",)
LEGEND_OF_SEEDS = ("accuracy: of the test images, by the views of the preset",)
LEGEND_OF_RATES = (
    "by the median time of each; the multiples are medians of the ratios within rounds, which do "
    "not depend on a drift of the machine's speed, and may differ from the ratio of two rates",
    "GFLOP/s: 2 for each multiplication of a plain convolution, forward and in the gradients that "
    "are needed; xentjax does fewer",
)


def step_flops(config: Config, side: int, *, train_whitening: bool) -> float:
    """Count the operations of the matrix products and plain convolutions of a step.

    A layer takes 2 N H W K^2 C D for its output and the same number for each gradient, in its
    kernel and in its input. The first kernel is not trained, and the second layer needs no gradient
    in its input unless the whitening's bias is trained.
    """
    side, channels = side - 1, 2 * config.whiten_components
    flops = 2 * side**2 * 2**2 * 3 * channels
    parts = 3 if train_whitening else 2
    for width in config.widths:
        first, second = side, side // 2  # sides before and after pooling
        flops += 2 * 3**2 * width * (parts * first**2 * channels + 3 * second**2 * width)
        side, channels, parts = second, width, 3
    return config.batch_size * (flops + 3 * 2 * channels * NUM_CLASSES)


def measure(
    case: cases.TrainingCase, torch: ModuleType | None, rivals: Sequence[str], session: Session
) -> Cell:
    """Time a step of xentjax and those of torch, interleaved."""
    config = replace(PRESETS[case.preset], batch_size=case.batch_size)
    session.say("compiling", log=False)
    thunks = {OURS: xentjax_step(config, case.side, train_whitening=case.train_whitening)}
    offered = None
    if torch is not None:
        for name in rivals:
            step = session.attempt(name, partial(_torch_step, torch, config, case, name))
            thunks |= {} if step is None else {name: step}
        offered = tuple(thunks)
    seconds = session.interleave(thunks, ours=OURS, min_seconds=0.0 if session.quick else 0.2)
    again = seconds.pop(noise.AGAIN, None)
    return Cell(case.name, "step", seconds, case.batch_size, offered=offered, again=again)


def _torch_step(
    torch: ModuleType, config: Config, case: cases.TrainingCase, name: str
) -> timing.Thunk:
    """Make a step of torch and take the first one, which compiles if this is asked for."""
    step = torch_step(
        torch,
        config,
        case.side,
        train_whitening=case.train_whitening,
        compiled=name == COMPILED,
        autocast=name == AUTOCAST,
    )
    step()
    return step


def accuracies(preset: PresetName, seeds: Sequence[int], session: Session) -> Table:
    """Train a preset with each seed until the session's time is over; no rows without CIFAR-10."""
    rows = []
    if find_cifar10() is None:
        session.notes.append(
            f"{preset}: skipped, CIFAR-10 is not on this machine; $XENTJAX_DATA_DIR names where"
        )
    else:
        data = load_cifar10(download=False)
        found = session.collect(
            preset,
            [(f"seed {seed}", seed) for seed in seeds],
            lambda seed: session.attempt("training", lambda: _train(preset, seed, data, session)),
        )
        rows = [row for row in found if row is not None]
    header = ("preset", "seed", "accuracy, %", "training, s", "compilation, s", "images/s")
    return Table(f"{preset} on CIFAR-10", header, tuple(rows), LEGEND_OF_SEEDS)


def _train(
    preset: PresetName, seed: int, data: Dataset, session: Session
) -> tuple[str | float | None, ...]:
    config = replace(PRESETS[preset], seed=seed)
    with TemporaryDirectory() as folder:
        parent = RunFolder.create("cifar10", config, Path(folder))
        result = run_training(
            config,
            data,
            parent,
            should_stop=lambda: time.monotonic() > session.choice.until,
        )
    figures = result.train_seconds, result.compile_seconds, result.images_per_second
    return preset, str(seed), 100 * result.test.accuracy, *figures


def rates(measured: Iterable[tuple[cases.TrainingCase, Cell]]) -> Table:
    """Make a table of images and operations per second."""
    rows = []
    for case, cell in measured:
        config = replace(PRESETS[case.preset], batch_size=case.batch_size)
        flops = step_flops(config, case.side, train_whitening=case.train_whitening)
        for name, samples in cell.seconds.items():
            median = timing.quartiles(samples).median
            rows.append((case.name, name, case.batch_size / median, flops / median / 1e9))
    return Table(
        "Rates", ("case", "implementation", "images/s", "GFLOP/s"), tuple(rows), LEGEND_OF_RATES
    )


def run(session: Session) -> Result:
    """Measure the kinds of steps in the presets for CPU."""
    prepare_cpu()  # before `machine.measure`, which starts jax
    limits = machine.measure(quick=session.quick)
    # torch takes a minute to compile each case.
    baselines = (TORCH,) if session.quick or session.choice.brief else BASELINES
    if current_backend().factor_dtype != jnp.bfloat16:
        baselines = tuple(name for name in baselines if name != AUTOCAST)
    rivals = tuple(filter(session.choice.has_rival, baselines))
    torch = load_torch() if rivals else None
    measured = session.collect(
        "training steps",
        [(case.name, case) for case in (cases.TRAINING_QUICK if session.quick else cases.TRAINING)],
        lambda case: (case, measure(case, torch, rivals, session)),
        takes_minutes=lambda case: case.preset != "cpu89",
    )
    return Result(
        name="training",
        ours=OURS,
        baselines=rivals,
        unit="images/s",
        cells=tuple(cell for _, cell in measured),
        machine=limits,
        notes=(*NOTES, *session.notes, *([NO_TORCH] if rivals and torch is None else [])),
        legend=LEGEND,
        extent=session.extent,
        tables=(rates(measured),),
    )
