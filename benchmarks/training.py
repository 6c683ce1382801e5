"""A training step of the CIFAR-10 networks: images per second beside PyTorch's.

PyTorch gets the same network and the same work: uint8 images gathered, shifted, mirrored and
shrunk, loss with label smoothing, Nesterov descent with decay in groups of parameters, lookahead.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import NO_TORCH, OURS, TORCH, load_torch
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from experiments.cifar10.backend import current_backend, data_mesh, prepare_cpu
from experiments.cifar10.config import PRESETS, Config, PresetName
from experiments.cifar10.data.augment import MEAN, STANDARD_DEVIATION
from experiments.cifar10.data.load import Dataset, find_cifar10, load_cifar10
from experiments.cifar10.training.programs import TrainingPrograms
from experiments.cifar10.training.run import run as run_training
from experiments.common.run_folder import RunFolder

NUM_IMAGES = 8192
NUM_CLASSES = 10
NOTES = (
    "a step: gather, shift, mirror, normalise and shrink a batch of uint8 images, forward, "
    "backward, Nesterov descent with decay, lookahead every fifth step",
    "torch: the same in eager mode, channels last, on all cores; random data for both, and a C "
    "library that keeps freed memory",
)
LEGEND = ("images/s: xentjax's",)
LEGEND_OF_SEEDS = ("accuracy: of the test images, by the views of the preset",)
LEGEND_OF_RATES = (
    "by the median time of each; the multiples are medians of the ratios within rounds, which do "
    "not depend on a drift of the machine's speed, and may differ from the ratio of two rates",
    "GFLOP/s: 2 for each multiplication of a plain convolution, forward and in the gradients that "
    "are needed; xentjax does fewer",
)


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Make random images [N, 32, 32, 3] and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(NUM_CLASSES, size=NUM_IMAGES, dtype=np.int32)


def xentjax_step(config: Config, side: int, *, train_whitening: bool) -> timing.Thunk:
    """A step of the experiment's compiled training program."""
    images, labels = images_and_labels()
    backend = current_backend()
    mesh = data_mesh(config.batch_size)
    config = replace(
        config, image_sides=(side,), whiten_bias_epochs=1.0 if train_whitening else 0.0
    )
    programs = TrainingPrograms(config, backend, mesh, NUM_IMAGES, NUM_CLASSES)
    step, plan = programs.step(0), programs.plan_epoch(0, 0)
    data = programs.replicate(images), programs.replicate(labels), plan
    return timing.thread_state(
        lambda state: programs.train_steps(state, *data, step=step, num_steps=1)[0],
        programs.initial_state(0, images),
    )


def torch_step(
    torch: ModuleType, config: Config, side: int, *, train_whitening: bool
) -> timing.Thunk:
    """An equal step, written for PyTorch."""
    torch.manual_seed(0)
    network = _torch_network(torch, config, train_whitening)
    network = network.to(memory_format=torch.channels_last)
    optimizer = _torch_optimizer(torch, config, network)
    images, labels = (torch.from_numpy(x) for x in images_and_labels())
    labels = labels.long()
    mean, deviation = (255 * torch.tensor(x) for x in (MEAN, STANDARD_DEVIATION))
    slow = {name: x.clone() for name, x in network.state_dict().items()}
    size, reach = config.batch_size, config.shift
    count = 0

    def batch() -> tuple[Any, Any]:
        chosen = torch.randint(0, NUM_IMAGES, (size,))
        x = (images[chosen].float() - mean) / deviation
        x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (reach,) * 4, mode="reflect")
        positions = torch.arange(32)[None]
        rows = positions + torch.randint(0, 2 * reach + 1, (size, 1))
        columns = torch.where(torch.rand(size, 1) < 0.5, 31 - positions, positions)
        columns = columns + torch.randint(0, 2 * reach + 1, (size, 1))
        each = torch.arange(size)[:, None, None]
        x = x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        if side != 32:
            x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        return x, labels[chosen]

    def step() -> float:
        nonlocal count
        x, y = batch()
        logits = network(x) / 9
        loss = torch.nn.functional.cross_entropy(
            logits, y, reduction="sum", label_smoothing=config.label_smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        (logits.detach().argmax(1) == y).sum()
        count += 1
        if count % 5 == 0:
            for name, x in network.state_dict().items():
                if x.is_floating_point():
                    slow[name].lerp_(x, 0.3)
                    x.copy_(slow[name])
        return float(loss.detach())

    return step


def _torch_network(torch: ModuleType, config: Config, train_whitening: bool) -> Any:
    nn = torch.nn
    layers = [nn.Conv2d(3, 24, 2), nn.SiLU()]
    layers[0].weight.requires_grad_(False)
    layers[0].bias.requires_grad_(train_whitening)
    channels = 24
    for width in config.widths:
        for inputs, pool in ((channels, [nn.MaxPool2d(2)]), (width, [])):
            convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            norm = nn.BatchNorm2d(width, eps=1e-5, momentum=0.4)
            norm.weight.requires_grad_(False)
            layers += [convolution, *pool, norm, nn.SiLU()]
        channels = width
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, NUM_CLASSES, bias=False)]
    return nn.Sequential(*layers)


def _torch_optimizer(torch: ModuleType, config: Config, network: Any) -> Any:
    """Nesterov descent, at rates so small that the loss of random labels cannot overflow."""
    norms = [m.bias for m in network if isinstance(m, torch.nn.BatchNorm2d)]
    known = {id(bias) for bias in norms}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": norms, "lr": 64e-6, "weight_decay": 2e-2},
        {"params": others, "lr": 1e-6, "weight_decay": 1.3},
    ]
    return torch.optim.SGD(groups, lr=1e-6, momentum=config.momentum, nesterov=True)


def step_flops(config: Config, side: int, *, train_whitening: bool) -> float:
    """Number of operations of the matrix products and plain convolutions of a step.

    A layer takes 2 N H W K^2 C D for its output and as many for each gradient, in its kernel and in
    its input. The first kernel is not trained, and the second layer needs no gradient in its input
    unless the whitening's bias is trained.
    """
    side, channels = side - 1, 24
    flops = 2 * side**2 * 2**2 * 3 * channels
    parts = 3 if train_whitening else 2
    for width in config.widths:
        first, second = side, side // 2  # sides before and after pooling
        flops += 2 * 3**2 * width * (parts * first**2 * channels + 3 * second**2 * width)
        side, channels, parts = second, width, 3
    return config.batch_size * (flops + 3 * 2 * channels * NUM_CLASSES)


def measure(case: cases.TrainingCase, torch: ModuleType | None, session: Session) -> Cell:
    """Time a step of xentjax and one of torch, interleaved."""
    config = replace(PRESETS[case.preset], batch_size=case.batch_size)
    session.say("compiling", log=False)
    thunks = {OURS: xentjax_step(config, case.side, train_whitening=case.train_whitening)}
    if torch is not None:
        thunks[TORCH] = torch_step(torch, config, case.side, train_whitening=case.train_whitening)
    seconds = session.interleave(thunks, ours=OURS, min_seconds=0.0 if session.quick else 0.2)
    again = seconds.pop(noise.AGAIN, None)
    return Cell(case=case.name, mode="step", seconds=seconds, work=case.batch_size, again=again)


def accuracies(preset: PresetName, seeds: Sequence[int], session: Session) -> Table:
    """Train a preset with each seed until the session's time is over; no row without CIFAR-10."""
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
    """Make a table of images and operations a second."""
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
    """Measure the kinds of steps that the presets for CPU consist of."""
    prepare_cpu()  # before the measurement of the limits, which uses jax
    limits = machine.measure(quick=session.quick)
    rivals = tuple(filter(session.choice.has_rival, (TORCH,)))
    torch = load_torch() if rivals else None
    measured = session.collect(
        "training steps",
        [(case.name, case) for case in (cases.TRAINING_QUICK if session.quick else cases.TRAINING)],
        lambda case: (case, measure(case, torch, session)),
        takes_minutes=lambda case: case.preset != "tiny",
    )
    return Result(
        name="training",
        ours=OURS,
        baselines=rivals,
        unit="images/s",
        cells=tuple(cell for _, cell in measured),
        machine=limits,
        notes=(*NOTES, *([NO_TORCH] if rivals and torch is None else [])),
        legend=LEGEND,
        extent=session.extent,
        tables=(rates(measured),),
    )
