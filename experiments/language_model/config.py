"""The settings of a run, and the small ones of --quick."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from experiments.common.command import check_seed
from experiments.common.settings import ConfigError, settings_from_json
from experiments.language_model.model import HEAD_WIDTH, LanguageModel
from experiments.language_model.tokenizer import END

NAME = "language_model"


@dataclass(frozen=True)
class Config:
    """All settings of a run; on one machine equal settings and texts give equal results."""

    seed: int = 0
    """Seed of the initial parameters, the batches and the samples."""
    quick: bool = False
    """Small sizes, to see every step and output in half a minute; the numbers mean nothing."""
    data: Path | None = None
    """File of text, whose last tenth is held out; default: Python's own standard library."""
    text_bytes: int = 8_000_000
    """Read at most this many bytes of the text."""
    vocabulary: int = 4096
    """Number of tokens K of the vocabulary, which is learned from the text."""

    context: int = 128
    """Tokens of a training text, and the largest number of tokens that the model sees at once."""
    width: int = 128
    """Features of a token in the teacher, a multiple of 64; the student has half of them."""
    blocks: int = 3
    """Blocks of the transformer, of teacher and student."""
    batch_size: int = 16
    """Texts in a training step."""
    steps: int = 400
    """Training steps of the teacher."""
    student_steps: int = 400
    """Training steps of each student."""
    learning_rate: float = 3e-3
    """Learning rate of teacher and students at its peak."""
    evaluate_every: int = 80
    """Steps between two evaluations, which also save a checkpoint."""
    test_windows: int = 256
    """Held-out texts of an evaluation, each of the length of the context."""

    temperature: float = 0.8
    """Temperature of the samples that are shown; below 1 prefers likely tokens."""
    prompt: int = 16
    """Tokens of held-out text before a shown sample, and of training text before a rollout."""
    drawn: int = 48
    """Tokens of a sample or rollout after its prompt."""

    tuning_steps: int = 80
    """Updates of the teacher for the reward."""
    updates: int = 2
    """Updates from the same rollouts."""
    rollouts: int = 32
    """Texts that are drawn before an update."""
    tuning_rate: float = 3e-4
    """Learning rate of the tuning at its peak."""
    clip: float = 0.2
    """Largest relative change of a token's probability for which an update is rewarded."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus b."""
    kl_weight: float = 0.1
    """Weight of the penalty k, the estimated KL divergence from the teacher."""

    def __post_init__(self) -> None:
        def check(name: str, expected: str, holds: bool) -> None:
            if not holds:
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

        def check_size(name: str, least: int, most: int) -> None:
            check(name, f"{least} to {most}", least <= getattr(self, name) <= most)

        check_seed("seed", self.seed)
        check_size("text_bytes", 1, 2**30)
        check_size("vocabulary", END + 1, 2**17)
        check_size("context", 2, 2**14)
        check_size("width", 2 * HEAD_WIDTH, 2**13)
        multiple = 2 * HEAD_WIDTH
        check("width", f"a multiple of {multiple}", self.width % multiple == 0)
        check_size("blocks", 1, 64)
        check_size("batch_size", 1, 2**14)
        for name in ("steps", "student_steps", "evaluate_every"):
            check_size(name, 1, 2**31 - 1)
        check_size("test_windows", 2, 2**20)
        check_size("prompt", 1, self.context - 1)
        check_size("drawn", 1, self.context - self.prompt)
        check_size("updates", 1, 2**10)
        check_size("tuning_steps", 1, 2**31 - 1)
        check("tuning_steps", "a multiple of --updates", self.tuning_steps % self.updates == 0)
        check_size("rollouts", 2, 2**14)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                check(field.name, "a number from 1e-30 to 1e30", 1e-30 <= value <= 1e30)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Self:
        """Read the settings in config.json of the run folder `path`."""
        return settings_from_json(cls, values, path, "a language model's")

    def teacher(self, vocabulary: int) -> LanguageModel:
        """Describe the teacher, for a vocabulary of this size."""
        return LanguageModel(vocabulary, self.context, self.width, self.blocks)

    def student(self, vocabulary: int) -> LanguageModel:
        """Describe the student, which is half as wide."""
        return LanguageModel(vocabulary, self.context, self.width // 2, self.blocks)


QUICK = Config(
    quick=True,
    text_bytes=1_000_000,
    vocabulary=1024,
    context=64,
    width=64,
    blocks=2,
    batch_size=8,
    steps=40,
    student_steps=40,
    evaluate_every=20,
    test_windows=32,
    drawn=32,
    tuning_steps=8,
    rollouts=8,
)
