"""Tour from a rolled die to a classifier: one minimisation of cross-entropy in four steps.

    python -m experiments                the tour, in a minute or two on two cores
    python -m experiments NAME --help    one experiment: law_of_large_numbers,
                                         categorical_mle, asymptotics,
                                         divergences, survey, cifar10,
                                         loss_comparison, language_model

Nothing is downloaded. If CIFAR-10 is found in --data-dir, $XENTJAX_DATA_DIR or the user's cache,
the classifier is trained on it, otherwise on scikit-learn's handwritten digits.
"""

import importlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from experiments import divergences, law_of_large_numbers
from experiments.categorical_mle import __main__ as categorical_mle
from experiments.cifar10.backend import prepare_cpu
from experiments.cifar10.config import PRESETS
from experiments.cifar10.data.load import Dataset, find_cifar10, load_cifar10, load_digits
from experiments.cifar10.training.run import run as train
from experiments.common.command import UserError, one_line_errors, parse_options, say
from experiments.common.compile_cache import compile_cache
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.waiting import waiting

EXPERIMENTS = {
    "law_of_large_numbers": "experiments.law_of_large_numbers",
    "categorical_mle": "experiments.categorical_mle.__main__",
    "asymptotics": "experiments.asymptotics.__main__",
    "divergences": "experiments.divergences",
    "survey": "experiments.survey.__main__",
    "cifar10": "experiments.cifar10.__main__",
    "loss_comparison": "experiments.loss_comparison",
    "language_model": "experiments.language_model.__main__",
}


@dataclass(frozen=True)
class Config:
    """The folders of the tour."""

    data_dir: Path | None = None
    """Folder that contains CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the new run folders are made."""


def tour(config: Config, console: Console) -> None:
    """Run the four experiments at their defaults, and print the finding of each.

    Raises:
        UserError: a folder cannot be written.
        DataError: `config.data_dir` does not contain CIFAR-10, or the data are damaged.
    """
    # Read first, so that bad data are reported at once.
    with waiting(console, "reading the images"):
        dataset = _images(config.data_dir)
    _law_of_large_numbers(config, console)
    _maximum_likelihood(config, console)
    _divergences(config, console)
    _classifier(config, dataset, console)


def _images(data_dir: Path | None) -> Dataset:
    if find_cifar10(data_dir) is None:
        return load_digits()
    return load_cifar10(data_dir, download=False)


def _law_of_large_numbers(config: Config, console: Console) -> None:
    settings = law_of_large_numbers.Config(runs_dir=config.runs_dir)
    folder = RunFolder.create(law_of_large_numbers.NAME, settings, config.runs_dir)
    result = law_of_large_numbers.run_and_save(settings, folder, console)
    _report(
        console,
        "1. The law of large numbers",
        "p_N(k) = (1/N) sum_n [X_n = k]  ->  q(k)",
        f"After {settings.num_rolls:,} rolls of a die no face's share is further than "
        f"{result.deviations[:, -1].max():.4f} from its probability. "
        f"The largest error falls as N^({result.slope:.2f}); the law predicts N^(-1/2).",
        folder,
    )


def _maximum_likelihood(config: Config, console: Console) -> None:
    settings = categorical_mle.Config(runs_dir=config.runs_dir)
    folder = RunFolder.create(categorical_mle.NAME, settings, config.runs_dir)
    with waiting(console, "fitting a die"):
        result = categorical_mle.run(settings)
        categorical_mle.save(result, folder)
    summary = categorical_mle.summarize(result)
    fit, newton = result.by_steps["Rprop"], result.by_steps["Newton"]
    _report(
        console,
        "2. Maximum likelihood is minimum cross-entropy",
        "sum_k c_k log q_k = -N H(p, q),  largest at q = p = c / N",
        f"The log-likelihood of {settings.num_rolls:,} rolls is at most "
        f"{summary['log_likelihood']['nats']:,.1f} nats "
        f"({summary['log_likelihood']['bits']:,.1f} bits): the duality gap at q = p is "
        f"{float(result.closed_form.certificate.duality_gap):.1e} nats. With gradients alone, "
        f"{int(fit.steps)} steps reach KL(p || q) = "
        f"{summary['fits']['Rprop']['kl_from_closed_form']:.1e} nats; Newton's method, which uses "
        f"the curvature, takes {int(newton.steps)}.",
        folder,
    )


def _divergences(config: Config, console: Console) -> None:
    settings = divergences.Config(runs_dir=config.runs_dir)
    folder = RunFolder.create(divergences.NAME, settings, config.runs_dir)
    with waiting(console, "drawing the simplex"):
        result = divergences.run(settings)
        divergences.save(result, folder)
    nats = {name: values["nats"] for name, values in result.units.items()}
    terms = nats[divergences.CROSS_ENTROPY], nats["H(p)"], nats[divergences.FORWARD]
    total, entropy, divergence = _adding_up(*terms)
    forward = result.units[divergences.FORWARD]
    _report(
        console,
        "3. Cross-entropy and Kullback-Leibler divergence",
        "H(p, q) = H(p) + KL(p || q),  KL(p || q) >= 0",
        f"For p = {settings.p} and q = {settings.q}: {total} = "
        f"{entropy} + {divergence} nats. "
        f"KL(p || q) is {forward['bits']:.4f} bits or {forward['hartleys']:.4f} hartleys. "
        f"It is not symmetric: KL(q || p) is {nats[divergences.REVERSE]:.4f} nats.",
        folder,
    )


def _adding_up(total: float, *terms: float) -> list[str]:
    """Format a sum and its terms with enough digits, at least four, to add up."""
    digits = next(
        (d for d in range(4, 7) if round(sum(round(x, d) for x in terms), d) == round(total, d)), 4
    )
    return [f"{value:.{digits}f}" for value in (total, *terms)]


def _classifier(config: Config, dataset: Dataset, console: Console) -> None:
    settings = PRESETS["digits" if dataset.name == "digits" else "tour"]
    folder = RunFolder.create("cifar10", settings, config.runs_dir)
    absent = "" if dataset.name == "CIFAR-10" else "CIFAR-10 was not found on this machine. "
    say(console, f"{absent}Training a network on {dataset.name} ({dataset.source}).")
    result = train(settings, dataset, folder, console=console)
    num_classes = len(dataset.class_names)
    _report(
        console,
        f"4. The same loss trains a classifier: {dataset.name}",
        "(1/N) sum_n H(p_n, q_n) = -(1/N) sum_n log q_n[y_n],  q = softmax f(x)",
        f"{result.accuracy:.2%} of {len(dataset.test_labels):,} test images are classified "
        f"correctly; the cross-entropy is {result.nll:.3f} nats an image, where guessing costs log "
        f"{num_classes} = {math.log(num_classes):.3f}.",
        folder,
    )


def _report(console: Console, title: str, formula: str, finding: str, folder: RunFolder) -> None:
    """Print the panel of a step, with its formula and finding, and the paths of the plots."""
    body = Group(Text(formula, style="bold"), "", Text(finding))
    console.print(Panel(body, title=title, title_align="left", padding=(1, 2)))
    for path in sorted(folder.path.glob("*.png")):  # without a frame, so that they can be copied
        say(console, str(path))
    console.print()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tour, or the experiment that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with one_line_errors():
        if arguments and not arguments[0].startswith("-"):
            name, *rest = arguments
            if name not in EXPERIMENTS:
                raise UserError(f"NAME: expected one of {', '.join(EXPERIMENTS)}, got '{name}'")
            importlib.import_module(EXPERIMENTS[name]).main(rest)
            return
        prepare_cpu()
        config = parse_options(Config, arguments, prog="python -m experiments", description=__doc__)
        console = Console()
        with compile_cache():
            tour(config, console)
        console.print(
            "Your own data: python -m experiments categorical_mle --data FILE --column NAME"
        )


if __name__ == "__main__":
    main()
