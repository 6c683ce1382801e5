"""Train presets over seeds, and draw their accuracy against the seconds that a user waits.

    python -m experiments.cifar10 pareto
    python -m experiments.cifar10 pareto cpu89 "cpu89 --epochs 4" --seeds 0:5 --cold

Each argument is a preset, with options that change it. Every run is a whole command in its own
process, one at a time, timed from its start to its end. All settings are trained with the first
seed, then all with the second, so that a drift of the machine's speed or an early end affects all
of them equally. If torch is installed, the training steps are then timed in turn with those of the
same network in torch (eager, float32).

Finished runs are kept: --resume trains the others. An unfinished one starts again, since its
seconds would not be those of one command.
"""

import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import tyro
from rich.console import Console

from experiments.cifar10.backend import prepare_cpu
from experiments.cifar10.commands.seeds import parse_seeds
from experiments.cifar10.commands.settings import parse_settings
from experiments.cifar10.commands.speed import Speed, markdown, table
from experiments.cifar10.commands.torch_times import Phase, time_phases
from experiments.cifar10.commands.whole_command import (
    CommandFailed,
    signals_interrupt,
    train_alone,
)
from experiments.cifar10.config import Config
from experiments.cifar10.torch_step import not_written_for
from experiments.common.command import (
    UserError,
    one_line_errors,
    parse_options,
    printable,
    say,
)
from experiments.common.environment import cores, environment, processor
from experiments.common.optional_torch import NO_TORCH, load_torch
from experiments.common.run_folder import RUNS, RunFolder, reading, replace_file
from experiments.common.stopwatch import adding_up
from experiments.common.tables import show as show_table
from experiments.common.waiting import clock, waiting

NAME = "cifar10-pareto"
PROGRAM = "python -m experiments.cifar10 pareto"
FOR_CPUS = ("cpu89", "cpu92", "cpu93", "cpu94")
DEFAULT_SEEDS = "0:5"


@dataclass(frozen=True)
class Command:
    """The settings to train, and the folders."""

    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets, with options in quotes; default: those for CPUs."""
    seeds: str | None = None
    """Seeds of the runs: FIRST:END, or a list such as 1,4,7; default: 0:5."""
    cold: bool = False
    """Compile every program in every run, as on a machine that has never run one."""
    data_dir: Path | None = None
    """Folder that contains CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the new folder is made."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""
    resume: Path | None = None
    """Folder of a stopped command to resume; finished runs are kept."""


@dataclass(frozen=True)
class Plan:
    """The runs, as config.json records them.

    Attributes:
        settings: the settings by the text given for them.
        seeds: the seeds with which each is trained.
        cold: whether every run compiles its programs.
    """

    settings: Mapping[str, Config]
    seeds: tuple[int, ...]
    cold: bool

    @classmethod
    def of(cls, names: Sequence[str], seeds: tuple[int, ...], cold: bool) -> Self:
        """Parse the settings.

        Raises:
            UserError: there is no such preset, a setting is impossible, or one comes twice.
        """
        if len(set(names)) < len(names):
            raise UserError(f"settings: expected different ones, got {', '.join(names)}")
        return cls({name: parse_settings(name, PROGRAM) for name in names}, seeds, cold)

    @classmethod
    def recorded(cls, folder: RunFolder) -> Self:
        """Read the plan of an earlier command.

        Raises:
            UserError: the file has another form, or a preset has changed since then.
        """
        values = folder.config()
        with reading(folder.path / "config.json"):
            seeds = tuple(int(seed) for seed in values["seeds"])
            before, cold = dict(values["settings"]), bool(values["cold"])
        plan = cls.of(tuple(before), seeds, cold)
        for name, settings in plan.settings.items():
            earlier = Config.from_json(before[name], folder.path)
            if changes := earlier.changes(settings):
                raise UserError(
                    f"--resume: expected {name!r} as it was, got other values of "
                    + ", ".join(changes)
                )
        return plan

    @property
    def runs(self) -> list[tuple[str, int]]:
        """All pairs of settings and seed, in the order in which they are trained."""
        return [(name, seed) for seed in self.seeds for name in self.settings]


class Record:
    """The finished work, in metrics.jsonl: a line for each run, and one for the steps of settings.

    Attributes:
        runs: by settings and seed.
        phases: by settings.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.runs: dict[tuple[str, int], dict[str, Any]] = {}
        self.phases: dict[str, list[Phase]] = {}
        folder.drop_torn_lines()
        with reading(folder.path / "metrics.jsonl"):
            for line in folder.metrics():
                if "phases" in line:
                    self.phases[line["settings"]] = [Phase(**phase) for phase in line["phases"]]
                else:
                    self.runs[line["settings"], int(line["seed"])] = line

    def add_run(self, run: dict[str, Any]) -> None:
        """Keep a finished run."""
        self._folder.log(**run)
        self.runs[run["settings"], run["seed"]] = run

    def add_phases(self, name: str, phases: list[Phase]) -> None:
        """Keep the times of the steps of some settings."""
        self._folder.log(settings=name, phases=phases)
        self.phases[name] = phases

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of some settings."""
        return [run for (settings, _), run in self.runs.items() if settings == name]

    def seconds(self, name: str) -> float | None:
        """Return the mean seconds of a run of some settings; None before the first."""
        seconds = [run["whole_seconds"] for run in self.of(name)]
        return sum(seconds) / len(seconds) if seconds else None

    def speeds(self, plan: Plan) -> dict[str, Speed]:
        """Summarise the settings that have runs."""
        names = [name for name in plan.settings if self.of(name)]
        return {name: Speed.of(self.of(name), self.phases.get(name)) for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    prepare_cpu()
    with one_line_errors():
        command, rest = parse_options(
            Command, argv, prog=PROGRAM, description=__doc__, return_unknown_args=True
        )
        if rest:
            raise UserError(
                f"{rest[0]}: expected --seeds, --cold, --data-dir, --runs-dir, --compile-cache or "
                '--resume; options of a preset belong inside its quotes, as in "cpu89 --no-whiten"'
            )
        folder, plan = _open(command)
        console = Console()
        with folder.locked(), signals_interrupt():
            record = Record(folder)
            problems: list[str] = []
            try:
                problems = _train(plan, record, folder, _options(command), console)
                _time_steps(plan, record, console)
            except KeyboardInterrupt as stopped:
                number = stopped.args[0] if stopped.args else signal.SIGINT
                _report(plan, record, folder, console)
                say(Console(stderr=True), f"stopped; go on with: {_resume(folder, command)}")
                raise SystemExit(128 + number) from None
            _report(plan, record, folder, console)
        if problems:
            raise UserError("; ".join(problems))


def _open(command: Command) -> tuple[RunFolder, Plan]:
    """Make the folder, or open that of the command to resume."""
    if command.resume is None:
        seeds = parse_seeds(DEFAULT_SEEDS if command.seeds is None else command.seeds)
        plan = Plan.of(command.settings or FOR_CPUS, seeds, command.cold)
        return RunFolder.create(NAME, plan, command.runs_dir), plan
    if command.settings or command.seeds is not None or command.cold:
        raise UserError("--resume: expected no settings, --seeds or --cold with it")
    folder = RunFolder.open(command.resume, NAME)
    return folder, Plan.recorded(folder)


def _options(command: Command) -> list[str]:
    """Return the options that every run shares with this command."""
    options: list[str] = []
    if command.data_dir is not None:
        options += ["--data-dir", str(command.data_dir)]
    if command.compile_cache is not None:
        options += ["--compile-cache", str(command.compile_cache)]
    return options


def _resume(folder: RunFolder, command: Command) -> str:
    return f"{PROGRAM} {shlex.join(['--resume', str(folder.path), *_options(command)])}"


def _train(
    plan: Plan, record: Record, folder: RunFolder, options: Sequence[str], console: Console
) -> list[str]:
    """Train the runs without a result; return the problems of those that failed.

    Raises:
        CommandFailed: no run could be finished.
    """
    problems: list[str] = []
    for number, (name, seed) in enumerate(plan.runs, 1):
        if (name, seed) in record.runs:
            continue
        place = f"run {number} of {len(plan.runs)}: {name}, seed {seed}"
        part = folder.path / f"settings-{list(plan.settings).index(name)}" / f"seed-{seed}"
        with waiting(console, place) as doing:
            left = _time_left(plan, record, plan.runs[number:], name)
            try:
                run = train_alone(
                    name,
                    seed,
                    part,
                    options,
                    cold=plan.cold,
                    saying=lambda line, place=place, left=left: doing(
                        printable(f"{place}: {line}; {left()}")
                    ),
                )
            except CommandFailed as failed:
                if not record.runs:
                    raise
                problems.append(str(failed))
                say(console, str(failed))
                continue
        record.add_run(run)
        say(console, f"{place}: accuracy {run['accuracy']:.2%}, {adding_up(run['seconds'])}")
    return problems


def _time_left(
    plan: Plan, record: Record, later: Sequence[tuple[str, int]], name: str
) -> Callable[[], str]:
    """Return a function that formats the time left, from the start of this run on."""
    began = time.monotonic()
    means = {each: record.seconds(each) for each in plan.settings}
    known = [means[each] for each, seed in later if (each, seed) not in record.runs]
    rest = sum(mean for mean in known if mean is not None)
    at_least = "at least " if None in known or means[name] is None else ""

    def left() -> str:
        own = max(0.0, (means[name] or 0.0) - (time.monotonic() - began))
        if at_least and not rest + own:
            return "time left of all runs known after the first ones"
        return f"all runs: left {at_least}{clock(rest + own)}"

    return left


def _time_steps(plan: Plan, record: Record, console: Console) -> None:
    """Time the steps of the trained settings and, in turn, those of torch."""
    names = [name for name in plan.settings if record.of(name) and name not in record.phases]
    if not names:
        return
    with waiting(console, "importing torch"):
        torch = load_torch()
    if torch is None:
        say(console, NO_TORCH)
        return
    for name in names:
        settings = plan.settings[name]
        if reasons := not_written_for(settings):
            say(console, f"{name}: no steps of torch, which has none for its {', '.join(reasons)}")
            continue
        with waiting(console, name) as doing:
            phases = time_phases(
                torch, settings, lambda line, name=name: doing(f"{name} beside torch: {line}")
            )
        record.add_phases(name, phases)


def _report(plan: Plan, record: Record, folder: RunFolder, console: Console) -> None:
    """Write JSON, Markdown and figure of the finished runs, and print the table."""
    speeds = record.speeds(plan)
    if not speeds:
        return
    machine = f"{processor()}, {cores()} cores"
    circumstances = {
        **environment(datetime.now().astimezone()),
        "processor": processor(),
        "cores": cores(),
    }
    values = {
        "machine": circumstances,
        "plan": plan,
        "missing": [run for run in plan.runs if run not in record.runs],
        "settings": {name: speed.summary() for name, speed in speeds.items()},
        "steps": {name: [asdict(phase) for phase in record.phases[name]] for name in record.phases},
        "runs": list(record.runs.values()),
    }
    folder.summary(values)
    lines = markdown(speeds, machine, plan.cold)
    replace_file(folder.path / "pareto.md", lambda file: file.write_text(lines, encoding="utf-8"))
    from experiments.cifar10.commands.figures import draw_pareto  # matplotlib takes a while

    folder.figure("pareto", draw_pareto(speeds, machine))
    show_table(console, table(speeds, plan.cold))
    say(console, f"Numbers and figure: {folder.path}")
