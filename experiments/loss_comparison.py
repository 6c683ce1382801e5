"""Which loss should I use? One network, trained with each of five losses from the same seeds.

    cross-entropy      -log p_y
    label smoothing    the same for targets (1 - e) t + e / K, with e = 0.2
    focal              (1 - p_y)^2 (-log p_y)
    poly               -log p_y + (1 - p_y)
    Brier              sum_k (p_k - t_k)^2

Each network is then calibrated: its logits are divided by a temperature fitted to held-out training
images. Accuracy, negative log-likelihood and calibration error are measured on the test images. The
settings, including the learning rate, are the same for all losses.

    python -m experiments.loss_comparison --data-dir PATH --seeds 0:3
    python -m experiments.loss_comparison --preset digits

Sources: C. Szegedy et al., Rethinking the Inception Architecture, arXiv 1512.00567 (smoothing);
T.-Y. Lin et al., Focal Loss, arXiv 1708.02002; Z. Leng et al., PolyLoss, arXiv 2204.12511;
C. Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599 (temperature).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.cifar10.backend import prepare_cpu
from experiments.cifar10.commands.seeds import SWEEP_NAME, Sweep, estimates, parse_seeds, run_seeds
from experiments.cifar10.config import PRESETS, Config as Settings, PresetName
from experiments.cifar10.data.load import Dataset, load
from experiments.cifar10.training.run import check
from experiments.common.command import UserError, one_line_errors, parse_options, say
from experiments.common.compile_cache import compile_cache
from experiments.common.estimates import Estimate
from experiments.common.interrupt import resumable
from experiments.common.plots import PALETTE, add_legend, subplots
from experiments.common.run_folder import RUNS, RunFolder, reading
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

NAME = "loss_comparison"
PROGRAM = f"python -m experiments.{NAME}"
BASELINE = "cross-entropy"
LOSSES: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {"loss": "cross_entropy", "label_smoothing": 0.0},
    "label smoothing": {"loss": "cross_entropy", "label_smoothing": 0.2},
    "focal": {"loss": "focal", "label_smoothing": 0.0},
    "poly": {"loss": "poly", "label_smoothing": 0.0},
    "Brier": {"loss": "brier", "label_smoothing": 0.0},
}
# figure of a run's summary -> the same after calibration
CALIBRATED = {
    "test_nll": "test_calibrated_nll",
    "test_calibration_error": "test_calibrated_calibration_error",
}


@dataclass(frozen=True)
class Config:
    """The network, the seeds and the folders."""

    preset: PresetName = "cpu89"
    """The settings except the loss."""
    seeds: str = "0:3"
    """Seeds of the runs: FIRST:END, or a list such as 1,4,7."""
    epochs: float | None = None
    """Passes through the training images; default: the preset's."""
    data_dir: Path | None = None
    """Folder that contains CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""
    resume: Path | None = None
    """Folder of a stopped comparison to resume; finished runs are kept."""


@dataclass(frozen=True)
class Result:
    """The runs with one loss.

    Attributes:
        figures: figure of a run's summary -> its mean over the seeds, see `seeds.estimates`.
        difference: of the test accuracy from that with cross-entropy, seed by seed.
    """

    figures: Mapping[str, Estimate]
    difference: Estimate


def settings_of(config: Config) -> dict[str, Settings]:
    """Return the settings of the runs, by loss."""
    base = PRESETS[config.preset]
    if config.epochs is not None:
        base = replace(base, epochs=config.epochs)
    return {name: replace(base, **changes) for name, changes in LOSSES.items()}


def run(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    *,
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Result]:
    """Train with each loss from each seed, except runs that the folder already contains.

    Raises:
        UserError: see `train.run`.
        TrainingStopped: `should_stop` returned True.
    """
    seeds = parse_seeds(config.seeds)
    summaries: dict[str, list[dict[str, Any]]] = {}
    for name, settings in settings_of(config).items():
        if console is not None:
            console.print(Text(name, style="bold"))
        sweep = Sweep(settings, seeds)
        part = folder.part(name.replace(" ", "-"), SWEEP_NAME, sweep)
        summaries[name] = run_seeds(sweep, dataset, part, console=console, should_stop=should_stop)
    return compare(summaries)


def compare(summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Result]:
    """Compute the means, and the differences in accuracy from cross-entropy.

    Args:
        summaries: loss -> the summaries of its runs, in the order of the seeds.
    """
    baseline = summaries[BASELINE]

    def differences(runs: Sequence[Mapping[str, Any]]) -> list[float]:
        pairs = zip(runs, baseline, strict=True)
        return [float(a["test_accuracy"]) - float(b["test_accuracy"]) for a, b in pairs]

    return {
        loss: Result(estimates(runs), Estimate.of(differences(runs)))
        for loss, runs in summaries.items()
    }


def draw(results: Mapping[str, Result]) -> Figure:
    """Plot accuracy, NLL and calibration error of each loss, before and after calibration."""
    seeds = next(iter(results.values())).difference.n
    title = f"Losses compared: means of {seeds} seeds with 95 % intervals"
    figure, (axes,) = subplots(1, 3, height=3.6, sharey=True, title=title)
    names = list(results)[::-1]
    titles = {
        "test_accuracy": "test accuracy",
        "test_nll": "test NLL (nats)",
        "test_calibration_error": "calibration error",
    }
    for ax, (figure_name, title) in zip(axes, titles.items(), strict=True):
        if figure_name in CALIBRATED:
            shown = [
                (figure_name, "as trained", 0.12, PALETTE[1]),
                (CALIBRATED[figure_name], "with temperature", -0.12, PALETTE[0]),
            ]
        else:
            shown = [(figure_name, "", 0.0, PALETTE[0])]
        for name, label, offset, color in shown:
            for place, loss in enumerate(names):
                if (value := results[loss].figures.get(name)) is None:
                    continue
                ax.errorbar(
                    value.mean,
                    place + offset,
                    xerr=[[value.mean - value.lower], [value.upper - value.mean]],
                    fmt="o",
                    color=color,
                    capsize=3,
                    label=label if place == 0 else "",
                )
        ax.set_xlabel(title)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        if figure_name != "test_nll":
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes[0].set_yticks(range(len(names)), names)
    add_legend(figure)
    return figure


def table(results: Mapping[str, Result]) -> Table:
    """Make a table of the comparison: a column for each loss, the unit in each row's name."""
    seeds = next(iter(results.values())).difference.n
    shown = new_table(
        f"Test images, means of {seeds} seeds",
        ["", *(loss.replace(" ", "\n").replace("-", "-\n") for loss in results)],
    )

    def row(heading: str, name: str, scale: float, digits: int) -> None:
        values = [result.figures.get(name) for result in results.values()]
        shown.add_row(
            heading, *("" if v is None else f"{scale * v.mean:.{digits}f}" for v in values)
        )

    row("accuracy, %", "test_accuracy", 100, 2)
    differences = [None if k == BASELINE else r.difference for k, r in results.items()]
    shown.add_row(
        "difference, points", *("" if d is None else f"{100 * d.mean:+.2f}" for d in differences)
    )
    shown.add_row(
        "  its 95 % interval, ±",
        *("" if d is None else f"{100 * (d.upper - d.mean):.2f}" for d in differences),
    )
    row("NLL, nats", "test_nll", 1, 4)
    row("calibration error, %", "test_calibration_error", 100, 2)
    row("temperature T", "temperature", 1, 3)
    row("NLL at T, nats", "test_calibrated_nll", 1, 4)
    row("calibr. error at T, %", "test_calibrated_calibration_error", 100, 2)
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    prepare_cpu()
    with one_line_errors():
        config = parse_options(Config, argv, prog=PROGRAM, description=__doc__)
        if config.resume is not None:
            recorded = RunFolder.open(config.resume, NAME).config()
            with reading(config.resume / "config.json"):
                kept = {name: recorded[name] for name in ("preset", "seeds", "epochs")}
                settings_of(Config(**kept))
                parse_seeds(kept["seeds"])
            for name, value in kept.items():
                if (given := getattr(config, name)) not in (getattr(Config(), name), value):
                    raise UserError(
                        f"--{name}: expected {value} as in the resumed run, got {given}"
                    )
            config = replace(config, **kept)
        if len(seeds := parse_seeds(config.seeds)) < 2:
            raise UserError(
                f"--seeds: expected at least 2, to estimate the spread, got {len(seeds)}"
            )
        console = Console()
        name = PRESETS[config.preset].dataset
        with waiting(console, f"reading {name}") as doing:
            dataset = load(name, config.data_dir, doing)
        for settings in settings_of(config).values():
            check(settings, dataset)
        folder = (
            RunFolder.create(NAME, config, config.runs_dir)
            if config.resume is None
            else RunFolder.open(config.resume, NAME)
        )
        with (
            folder.locked(),
            compile_cache(config.compile_cache),
            resumable(PROGRAM, folder.path, config.data_dir) as should_stop,
        ):
            results = run(config, dataset, folder, console=console, should_stop=should_stop)
        folder.summary(results)
        folder.figure("losses", draw(results))
        show_table(console, table(results))
        say(console, f"Numbers and figure: {folder.path}")


if __name__ == "__main__":
    main()
