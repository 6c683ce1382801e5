"""The cases each benchmark measures, and nothing else."""

from typing import NamedTuple


class LossCase(NamedTuple):
    """Logits [N, K] of one dtype, and what is done with their mean loss."""

    name: str
    shape: tuple[int, int]
    dtype: str
    mode: str


MODES = ("forward", "value_and_grad", "SGD step")


def _cases(*shapes: tuple[int, int]) -> tuple[LossCase, ...]:
    return tuple(
        LossCase(f"{shape[0]} × {shape[1]}", shape, "float32", mode)
        for shape in shapes
        for mode in MODES
    )


# A small classifier, ImageNet, and the vocabularies of a small and of a large language model.
LOSSES = _cases((65536, 10), (8192, 1000), (1024, 32768), (256, 131072))
LOSSES_QUICK = _cases((512, 10), (16, 1000))


class TrainingCase(NamedTuple):
    """A step of the CIFAR-10 training at one image size, in pixels."""

    side: int
    train_whitening: bool

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.side} px" + (", whitening bias trained" if self.train_whitening else "")


TRAINING = (TrainingCase(25, True), TrainingCase(25, False), TrainingCase(32, False))
