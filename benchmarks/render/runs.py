"""Tables of the pages from runs of experiments: a run's summary with its command and date."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.output import markdown_table
from benchmarks.harness.tables import Sheet
from benchmarks.render import stored
from experiments.common.command import UserError
from experiments.common.run_folder import RunFolder

PRESETS = ("tiny", "small", "airbench93", "airbench94")
LOSSES = {
    "label smoothing": "label smoothing, 0.2",
    "focal": "focal, γ = 2",
    "poly": "poly, ε = 1",
}
Figures = Mapping[str, Any]


def keep(path: Path) -> str:
    """Copy the summary of a finished run to the measured files; return its name there.

    Raises:
        UserError: the folder holds no finished run.
    """
    config, summary = RunFolder.open(path).config(), RunFolder(path).read_summary()
    if summary is None:
        raise UserError(f"{path}: expected a finished run, got one without summary.json")
    record = json.loads((path / "config.json").read_text())
    command = re.sub(r"^\S+ ", "python ", record["command"])  # without a path of this machine
    record["command"] = re.sub(r" --(runs|data)-dir[ =]\S+", "", command)
    paths = ("runs_dir", "data_dir", "data")
    record["config"] = {key: value for key, value in config.items() if key not in paths}
    name = record["experiment"]
    if name == "cifar10-seeds":
        (preset,) = re.findall(r"--preset[ =](\S+)", command) or ["tiny"]
        name = f"cifar10-{preset}"
    known = record | {"processor": machine.processor(), "cores": machine.cores()}
    text = json.dumps(known | {"summary": summary}, indent=1, ensure_ascii=False)
    (stored.FOLDER / f"{name}.json").write_text(text + "\n")
    return name


def provenance(*names: str) -> str:
    """Write a sentence with the commands, dates, revision and machine of runs."""
    every = [stored.load(name) for name in names]
    commands = ", ".join(dict.fromkeys(f"`{run['command']}`" for run in every))
    dates = ", ".join(dict.fromkeys(run["started"][:10] for run in every))
    revisions = {run["revision"] for run in every}
    (revision,) = revisions if len(revisions) == 1 else (None,)
    at = (
        f"revision {revision[:7]}{' with changes' * revision.endswith('dirty')}"
        if revision
        else "revision not recorded"
    )
    processors = {run["processor"] for run in every}
    (processor,) = processors if len(processors) == 1 else (None,)
    where = f"{processor}, {every[0]['cores']} cores" if processor else f"{every[0]['cores']} cores"
    sources = dict.fromkeys(run["source"] for run in every if "source" in run)
    return f"{commands}, {dates}, {at}, {where}.{''.join(f' Figures {s}.' for s in sources)}"


def seeds() -> str:
    """Make a row for each preset: accuracy and calibration, before and after the temperature."""
    rows = []
    for preset in PRESETS:
        run = stored.load(f"cifar10-{preset}")
        means = run["summary"]["means"]
        accuracy = means["test_accuracy"]
        several = accuracy["n"] > 1
        rows.append(
            [
                f"`{preset}`, {run['config']['settings']['epochs']:g} epochs",
                str(accuracy["n"]),
                _percent(accuracy["mean"]),
                _percent(accuracy["sd"]) if several else "",
                _interval(accuracy) if several else "",
                f"{means['test_nll']['mean']:.3f}",
                f"{100 * means['test_calibration_error']['mean']:.1f} %",
                f"{means['test_calibrated_nll']['mean']:.3f}",
                _percent(means["test_calibrated_calibration_error"]["mean"]),
            ]
        )
    header = [
        *("preset", "seeds", "accuracy", "standard deviation", "95 % interval of the mean"),
        *("NLL, nats", "calibration error", "NLL with temperature", "calibration error with it"),
    ]
    return markdown_table(Sheet("", header, rows), texts=1)


def ablations() -> str:
    """Make a row for each changed setting."""
    rows = []
    for name, entry in stored.load("cifar10-compare")["summary"].items():
        difference = entry["difference"]
        changed = [""] * 2
        if difference is not None:
            changed = [_points(difference["mean"]), _interval(difference, _points)]
        rows.append([f"`{name}`", _percent(entry["accuracy"]["mean"]), *changed])
    header = ["settings", "accuracy", "difference, points", "95 % interval"]
    return markdown_table(Sheet("", header, rows), texts=1)


def losses() -> str:
    """Make a row for each loss, with half the widths of 95 % intervals."""
    rows = []
    for name, result in stored.load("loss_comparison")["summary"].items():
        figures, difference = result["figures"], result["difference"]
        base = difference["mean"] == 0
        rows.append(
            [
                LOSSES.get(name, name),
                _within(figures["test_accuracy"], 100, 2, " %"),
                "" if base else _within(difference, 100, 2, sign="+"),
                _within(figures["test_nll"], 1, 3),
                _within(figures["test_calibration_error"], 100, 2, " %"),
                f"{figures['temperature']['mean']:.3f}",
                _within(figures["test_calibrated_nll"], 1, 3),
                _within(figures["test_calibrated_calibration_error"], 100, 2, " %"),
            ]
        )
    header = [
        *("loss", "accuracy", "difference, points", "NLL, nats", "calibration error"),
        *("T", "NLL at T", "calibration error at T"),
    ]
    return markdown_table(Sheet("", header, rows), texts=1)


def dice() -> str:
    """Make a row for each number of rolls, with theory and measurement."""
    rows = []
    for found in stored.load("asymptotics")["summary"]["measurements"]:
        covered = [_error(found["coverage"][method]) for method in ("wald", "wilson", "goodman")]
        theory = found["theory"]
        rows.append(
            [
                f"{found['num_rolls']:,}",
                f"{theory['first_order']:.6g}",
                f"{theory['kl']:.5g}",
                _with_error(*found["kl"]),
                _error(found["rejected"]),
                *covered,
            ]
        )
    header = [
        *("N", "E KL(p̂ ‖ p), nats: (K−1)/2N", "exact, `expected_kl`", "measured"),
        *("G-test rejects at 5 %", "Wald covers", "Wilson", "Goodman, all six"),
    ]
    return markdown_table(Sheet("", header, rows), texts=0)


def models() -> str:
    """Make a row for each language model."""
    summary = stored.load("language_model")["summary"]
    names = {
        "teacher": "teacher",
        "student": "student of half its width, alone",
        "distilled": "the same student, distilled",
        "tuned": "teacher, tuned",
    }
    rows = []
    for name, label in names.items():
        model = summary["models"][name]
        words = f"{100 * summary['reward'][name]:.1f} %" if name in summary["reward"] else ""
        rows.append([label, f"{model['parameters']:,}", f"{model['bits_per_byte']:.3f}", words])
    header = ["model", "parameters", "bits per byte", "ordinary words in its samples"]
    return markdown_table(Sheet("", header, rows), texts=1)


def gains() -> str:
    """Write a sentence on the effects of distillation and tuning, with their intervals."""
    summary = stored.load("language_model")["summary"]
    less, more = summary["distilled_less_alone"], summary["tuned_less_teacher_reward"]
    return (
        f"On {summary['test_bytes']:,} held-out bytes of {summary['text']}, distillation saves the "
        f"student {-less['mean']:.3f} bits per byte (95 % interval over {less['n']} texts "
        f"{-less['upper']:.3f} to {-less['lower']:.3f}), and tuning raises the share of ordinary "
        f"words by {100 * more['mean']:.1f} points ({100 * more['lower']:.1f} to "
        f"{100 * more['upper']:.1f} over {more['n']} texts); one seed, {summary['seconds']:.0f} s."
    )


def headlines() -> Iterable[list[str]]:
    """Yield the rows of README's table."""
    run = stored.load("language_model")
    summary = run["summary"]
    bits = [summary["models"][k]["bits_per_byte"] for k in ("teacher", "student", "distilled")]
    less, reward = summary["distilled_less_alone"], summary["reward"]
    yield [
        "`python -m experiments.language_model`",
        f"bits per byte of held-out Python: teacher {bits[0]:.3f}, student of half its width "
        f"{bits[1]:.3f} alone, {bits[2]:.3f} distilled ({-less['mean']:.3f} less; 95 % interval "
        f"over {less['n']} texts {-less['upper']:.3f} to {-less['lower']:.3f}; 1 seed); tuning "
        f"raises the share of ordinary words from {100 * reward['teacher']:.1f} % to "
        f"{100 * reward['tuned']:.1f} %",
        run["started"][:10],
    ]
    parts = []
    for preset in ("tiny", "airbench94"):
        run = stored.load(f"cifar10-{preset}")
        accuracy = run["summary"]["means"]["test_accuracy"]
        parts.append(
            f"`{preset}`: {_percent(accuracy['mean'])} ({accuracy['n']} "
            f"seed{'s' * (accuracy['n'] > 1)}) in {run['config']['settings']['epochs']:g} epochs"
        )
    yield ["`python -m experiments.cifar10`", "; ".join(parts), run["started"][:10]]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _interval(estimate: Figures, text: Callable[[float], str] = _percent) -> str:
    return f"{text(estimate['lower']).removesuffix(' %')} to {text(estimate['upper'])}"


def _within(estimate: Figures, scale: float, digits: int, unit: str = "", *, sign: str = "") -> str:
    """Format the mean and half the width of its interval."""
    half = estimate["upper"] - estimate["mean"]
    mean = f"{scale * estimate['mean']:{sign}.{digits}f}".replace("-", "−")
    return f"{mean} ± {scale * half:.{digits}f}{unit}"


def _with_error(value: float, error: float) -> str:
    digits = max(0, -math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _error(pair: tuple[float, float]) -> str:
    """Format a share and its standard error."""
    return f"{100 * pair[0]:.2f} ± {100 * pair[1]:.2f} %"


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "cifar10": {
        "provenance": partial(provenance, *(f"cifar10-{preset}" for preset in PRESETS)),
        "seeds": seeds,
    },
    "cifar10-compare": {
        "provenance": partial(provenance, "cifar10-compare"),
        "ablations": ablations,
    },
    "loss_comparison": {"provenance": partial(provenance, "loss_comparison"), "losses": losses},
    "asymptotics": {"provenance": partial(provenance, "asymptotics"), "dice": dice},
    "language_model": {
        "provenance": partial(provenance, "language_model"),
        "models": models,
        "gains": gains,
    },
}
"""Parts that a comment of a page can name, by stored run."""
