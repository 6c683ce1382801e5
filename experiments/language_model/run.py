"""A run: a teacher, two students, samples, and a teacher tuned for a reward."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.common.checkpoint import CheckpointError
from experiments.common.command import say
from experiments.common.progress import TrainingProgress
from experiments.common.run_folder import RunFolder, reading, replace_file
from experiments.language_model import work
from experiments.language_model.config import Config
from experiments.language_model.data import DataError, Text, encode_all, spread_windows
from experiments.language_model.evaluate import Score, evaluate
from experiments.language_model.model import LanguageModel, size
from experiments.language_model.programs import make_programs
from experiments.language_model.sample import Continued, continue_prompts
from experiments.language_model.stage import Metrics, Stage, Take
from experiments.language_model.tokenizer import Tokenizer, learn
from experiments.language_model.train import Stream, TrainState, initial_state, key_of
from experiments.language_model.tune import is_word, rewarded, rewards_of

TOKENIZER = "tokenizer.json"
WITHOUT_BAR = "a line follows for every evaluation; programs may have to be compiled"
TEACHER, STUDENT, DISTILLED, TUNED = "teacher", "student", "distilled", "tuned"


class Trained(NamedTuple):
    """A trained model.

    Attributes:
        size: number of its parameters.
        params: the parameters.
        score: of the held-out text.
    """

    size: int
    params: Any
    score: Score


class Drawn(NamedTuple):
    """Texts that a model has written after prompts of held-out text.

    Attributes:
        texts: at the temperature of the settings.
        rewards: of other texts, at temperature 1, [B].
    """

    texts: Continued
    rewards: np.ndarray


@dataclass(frozen=True)
class Result:
    """The findings of a run.

    Attributes:
        text: what was read.
        tokenizer: its vocabulary.
        models: the trained models by name.
        drawn: what the teacher wrote, before and after it was tuned.
        train_tokens: number of tokens to train on.
        seconds: of the whole run, None if it was resumed.
        compile_seconds: of these, those in which programs were compiled.
    """

    text: Text
    tokenizer: Tokenizer
    models: dict[str, Trained]
    drawn: dict[str, Drawn]
    train_tokens: int
    seconds: float | None
    compile_seconds: float


def run(
    config: Config,
    text: Text,
    folder: RunFolder,
    *,
    resume: bool = False,
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Run all stages; write checkpoints and metrics to the folder.

    Args:
        config: the settings.
        text: what to learn from.
        folder: the folder of the run.
        resume: continue from the folder's checkpoints.
        console: shows the progress, if there is one.
        should_stop: called before every step; True saves a checkpoint and stops.

    Raises:
        DataError: the text is too short, or another one than at the start of the run.
        CheckpointError: there is nothing left to do, or no room to save.
        RunError: the folder cannot be written, or another process uses it.
        TrainingStopped: `should_stop` returned True.
        UserError: a loss became NaN or infinite.
    """
    started = time.monotonic()
    with folder.locked(), TrainingProgress(console, WITHOUT_BAR) as progress:
        if resume and folder.read_summary() is not None:
            raise CheckpointError(f"{folder.path}: expected a stopped run, got a finished one")
        if (torn := folder.drop_torn_lines()) and console is not None:
            say(console, f"metrics.jsonl: dropped {torn} incomplete line{'s' * (torn > 1)}")
        tokenizer = _tokenizer(config, text, folder, progress)
        result = _Run(config, text, folder, tokenizer, progress, should_stop).result()
        return replace(result, seconds=None if resume else time.monotonic() - started)


def _tokenizer(
    config: Config, text: Text, folder: RunFolder, progress: TrainingProgress
) -> Tokenizer:
    """Read the run's vocabulary, or learn it and write it to the folder."""
    path = folder.path / TOKENIZER
    if path.exists():
        with reading(path):
            values = json.loads(path.read_bytes())
            tokenizer = Tokenizer([(int(left), int(right)) for left, right in values["merges"]])
            sha256 = values["text_sha256"]
        if sha256 != text.sha256:
            raise DataError(f"{text.name}: expected the text that the run began with, got another")
        return tokenizer
    progress.doing("counting words")
    tokenizer = Tokenizer(())
    for tokenizer in learn(text.train, config.vocabulary):
        progress.doing(f"tokens: {len(tokenizer):,} of {config.vocabulary:,}")
    values = {"text_sha256": text.sha256, "merges": tokenizer.merges}
    replace_file(path, lambda unfinished: unfinished.write_text(json.dumps(values)))
    return tokenizer


class _Run:
    """The data and the programs of a run."""

    def __init__(
        self,
        config: Config,
        text: Text,
        folder: RunFolder,
        tokenizer: Tokenizer,
        progress: TrainingProgress,
        should_stop: Callable[[], bool],
    ) -> None:
        progress.doing("encoding the text")
        train, held_out = (encode_all(tokenizer, part) for part in (text.train, text.held_out))
        if min(len(train), len(held_out)) <= 2 * config.context:
            raise DataError(
                f"{text.name}: expected more than {2 * config.context} tokens to train on and as "
                f"many to test on, got {len(train)} and {len(held_out)}"
            )
        self._config = config
        self._text = text
        self._folder = folder
        self._tokenizer = tokenizer
        self._progress = progress
        self._should_stop = should_stop
        self._train_tokens = train
        self._device_tokens = jnp.asarray(train)
        self._test = spread_windows(held_out, config.test_windows, config.context)
        self._teacher = config.teacher(len(tokenizer))
        self._student = config.student(len(tokenizer))
        self._optimizers, programs = make_programs(config, len(tokenizer))
        self._programs = programs.with_new_clock(progress.compiling)
        self._words = is_word(tokenizer)
        self._prompts = np.resize(
            spread_windows(held_out, config.rollouts, config.context)[:, : config.prompt],
            (config.rollouts, config.prompt),
        )

    def result(self) -> Result:
        """Run the stages."""
        stages = self._plan()
        models, drawn = dict[str, Trained](), dict[str, Drawn]()
        teacher = self._learn(stages[TEACHER], self._teacher)
        models[TEACHER] = self._tested(TEACHER, self._teacher, teacher)
        student = self._learn(stages[STUDENT], self._student)
        models[STUDENT] = self._tested(STUDENT, self._student, student)
        distilled = self._distil(stages[DISTILLED], teacher)
        models[DISTILLED] = self._tested(DISTILLED, self._student, distilled)
        drawn[TEACHER] = self._draw_both(TEACHER, teacher)
        tuned = self._tune(stages[TUNED], teacher)
        models[TUNED] = self._tested(TUNED, self._teacher, tuned)
        drawn[TUNED] = self._draw_both(TUNED, tuned)
        return Result(
            text=self._text,
            tokenizer=self._tokenizer,
            models=models,
            drawn=drawn,
            train_tokens=len(self._train_tokens),
            seconds=None,
            compile_seconds=sum(program.compile_seconds for program in self._programs),
        )

    def _plan(self) -> dict[str, Stage]:
        """List the stages; estimate their remaining work, for the progress."""
        config, teacher, student = self._config, self._teacher, self._student
        positions = config.prompt + config.drawn - 1
        position = work.of_position(config, teacher)
        update = work.of_update(config, teacher) + positions * position / config.updates
        distillation = work.of_distillation_step(config, student, teacher)
        sizes = [
            (TEACHER, config.steps, work.of_training_step(config, teacher)),
            (STUDENT, config.student_steps, work.of_training_step(config, student)),
            (DISTILLED, config.student_steps, distillation),
            (TUNED, config.tuning_steps, update),
        ]
        stages = {
            name: Stage(name, steps, step_work, config.evaluate_every)
            for name, steps, step_work in sizes
        }
        left = {name: stage.steps_left(self._folder) for name, stage in stages.items()}
        total = 4 * positions * position
        for name, stage in stages.items():
            windows = len(self._test) * (1 + math.ceil(left[name] / stage.evaluate_every))
            total += left[name] * stage.step_work + windows * self._window_work(name)
        needed = [name for name, number in left.items() if number]
        compiled = sum(len(program) > 0 for program in self._programs)  # by an earlier run
        # 3: two evaluations and the sampling; TUNED also needs the reference's log-probabilities
        self._progress.plan(total, max(0, len(needed) + 3 + (TUNED in needed) - compiled))
        return stages

    def _window_work(self, stage: str) -> float:
        model = self._teacher if stage in (TEACHER, TUNED) else self._student
        return self._config.context * work.of_token(model)

    def _learn(self, stage: Stage, model: LanguageModel) -> Any:
        """Train a model on the text; return its parameters."""
        self._progress.doing(f"{stage.name}: preparing")
        by_teacher = model == self._teacher
        step = self._programs.train_teacher if by_teacher else self._programs.train_student
        optimizer = self._optimizers.teacher if by_teacher else self._optimizers.student

        def take(state: TrainState) -> tuple[TrainState, Metrics]:
            state, loss = step(state, self._device_tokens)
            return state, {"loss": float(loss)}

        return self._train(stage, model, initial_state(model, optimizer, self._config.seed), take)

    def _distil(self, stage: Stage, teacher: Any) -> Any:
        """Train the student on the teacher's distributions; return its parameters."""
        self._progress.doing(f"{stage.name}: preparing")

        def take(state: TrainState) -> tuple[TrainState, Metrics]:
            state, loss = self._programs.distil(state, teacher, self._device_tokens)
            return state, {"kl": float(loss)}

        model, optimizer = self._student, self._optimizers.student
        return self._train(stage, model, initial_state(model, optimizer, self._config.seed), take)

    def _tune(self, stage: Stage, teacher: Any) -> Any:
        """Tune the teacher for the reward; return its parameters."""
        self._progress.doing(f"{stage.name}: preparing")
        config = self._config

        def take(state: TrainState) -> tuple[TrainState, Metrics]:
            number = int(state.step)
            key = key_of(config.seed, Stream.TUNING, number)
            drawn = self._draw(state.params, self._train_prompts(number), key, 1.0)
            rewards = rewards_of(drawn, config.prompt, self._words)
            reference = self._programs.log_probs(teacher, drawn.tokens[:, :-1], drawn.tokens[:, 1:])
            rollout = rewarded(drawn, config.prompt, rewards, reference)
            state, kl, entropy = self._programs.tune(state, rollout)
            for _ in range(config.updates - 1):
                state, *_ = self._programs.tune(state, rollout)
            # of the model that drew the texts, before the updates
            metrics = {"reward": rewards.mean(), "kl": kl, "entropy": entropy}
            return state, {name: float(value) for name, value in metrics.items()}

        # the step donates its state, and the teacher is still needed
        params = jax.tree.map(jnp.copy, teacher)
        state = TrainState(jnp.zeros((), jnp.int32), params, self._optimizers.tuning.init(params))
        return self._train(stage, self._teacher, state, take)

    def _train(self, stage: Stage, model: LanguageModel, state: TrainState, take: Take) -> Any:
        """Take the steps of a stage that are left; return the parameters."""

        def evaluate(state: TrainState) -> Metrics:
            score = self._score(stage.name, model, state.params)
            return {"bits_per_byte": score.bits_per_byte}

        return stage.train(
            state, take, evaluate, self._folder, self._progress, self._should_stop
        ).params

    def _tested(self, name: str, model: LanguageModel, params: Any) -> Trained:
        self._progress.doing(f"{name}: final test")
        return Trained(size(params), params, self._score(name, model, params))

    def _score(self, name: str, model: LanguageModel, params: Any) -> Score:
        programs = self._programs
        return evaluate(
            programs.teacher_nats if model == self._teacher else programs.student_nats,
            params,
            self._test,
            self._tokenizer.lengths,
            self._config.batch_size,
            lambda number: self._progress.worked(number * self._window_work(name)),
        )

    def _train_prompts(self, step: int) -> np.ndarray:
        """Take the beginnings of rollouts from the training text, the same for the same step."""
        config, tokens = self._config, self._train_tokens
        generator = np.random.default_rng((config.seed, Stream.TUNING, step))
        starts = generator.integers(len(tokens) - config.prompt, size=(config.rollouts, 1))
        return tokens[starts + np.arange(config.prompt)]

    def _draw(
        self, params: Any, prompts: np.ndarray, key: jax.Array, temperature: float
    ) -> Continued:
        length = self._config.prompt + self._config.drawn
        return continue_prompts(
            self._programs.next_token, self._teacher, params, prompts, length, key, temperature
        )

    def _draw_both(self, name: str, params: Any) -> Drawn:
        """Draw texts to read, and others to measure the reward."""
        config = self._config
        self._progress.doing(f"{name}: sampling")
        position = work.of_position(config, self._teacher)

        def draw(number: int, temperature: float) -> Continued:
            key = key_of(config.seed, Stream.SAMPLES, number)
            drawn = self._draw(params, self._prompts, key, temperature)
            self._progress.worked(position * (config.prompt + config.drawn - 1))
            return drawn

        rewards = rewards_of(draw(1, 1.0), config.prompt, self._words)
        return Drawn(draw(0, config.temperature), rewards)
