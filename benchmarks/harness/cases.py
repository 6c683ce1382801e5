"""The cases of each benchmark: shapes, dtypes and modes."""

from math import prod
from typing import NamedTuple


class LossCase(NamedTuple):
    """Logits [N, K] of one dtype, and the mode in which their mean loss is run."""

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


# For the cost of a call other than its arithmetic.
SMALL = tuple(
    LossCase(f"{rows} × {classes}", (rows, classes), "float32", f"{how} {mode}")
    for rows, classes in ((8, 10), (32, 100), (256, 100))
    for how in ("jit", "eager")
    for mode in ("forward", "value_and_grad")
)
SMALL_QUICK = SMALL[:4]

# A small classifier, ImageNet, and the vocabularies of a small and of a large language model.
LOSSES = _cases((65536, 10), (8192, 1000), (1024, 32768), (256, 131072))
LOSSES_QUICK = _cases((512, 10), (16, 1000))
KEYWORDS = ((8192, 1000), (1024, 32768))
KEYWORDS_QUICK = ((16, 1000),)


def _in_memory(*shapes: tuple[int, int]) -> tuple[LossCase, ...]:
    return tuple(
        LossCase(f"{shape[0]} × {shape[1]} {name}", shape, dtype, mode)
        for shape in shapes
        for dtype, name in (("float32", "f32"), ("bfloat16", "bf16"))
        for mode in ("forward", "value_and_grad")
    )


# At least a quarter of a gigabyte each, far more than a cache holds.
KERNELS = _in_memory((2**23, 10), (2**18, 1000), (2**16, 4096), (8192, 32768), (4096, 131072))
KERNELS_QUICK = _in_memory((64, 10))


class LinearCase(NamedTuple):
    """Features [N, D] and a kernel [D, K] of one dtype, and the mode in which the loss is run."""

    shape: tuple[int, int, int]
    dtype: str
    mode: str

    @property
    def name(self) -> str:
        """Name in the tables."""
        return " × ".join(map(str, self.shape)) + ("" if self.dtype == "float32" else " bf16")

    @property
    def flops(self) -> int:
        """Operations with stored logits: 2 N D K, or 6 N D K with gradients; some do more."""
        return (2 if self.mode == "loss" else 6) * prod(self.shape)


LINEAR_MODES = ("loss", "value_and_grad")
# Heads of a small and of a medium-sized language model.
LINEAR_SHAPES = ((2048, 512, 32768), (4096, 768, 50304))
LINEAR_SHAPES_QUICK = ((256, 32, 2048),)
LINEAR_BIG = LinearCase((16384, 256, 262144), "bfloat16", "value_and_grad")
LINEAR_BIG_QUICK = LinearCase((512, 32, 4096), "bfloat16", "value_and_grad")
LINEAR_ACCURACY = (512, 256, 8192)
LINEAR_ACCURACY_QUICK = (64, 32, 512)


class HeadCase(NamedTuple):
    """Features [N, D] and a kernel [D, K] of one dtype, for functions of a linear head."""

    shape: tuple[int, int, int]
    dtype: str

    @property
    def name(self) -> str:
        """Name in the tables."""
        return " × ".join(map(str, self.shape)) + ("" if self.dtype == "float32" else " bf16")


HEADS = tuple(HeadCase(shape, t) for shape in LINEAR_SHAPES for t in ("float32", "bfloat16"))
HEADS_QUICK = (HeadCase((256, 32, 2048), "float32"),)
HEADS_ACCURACY = (512, 256, 8000)  # not a power of two, to show errors of padding
# Heads of language models in half precision, for `kernels`.
KERNELS_LINEAR = tuple(
    LinearCase(shape, "bfloat16", mode)
    for shape in ((8192, 2048, 50304), (8192, 4096, 131072))
    for mode in LINEAR_MODES
)
KERNELS_HEADS = (HeadCase((8192, 2048, 50304), "bfloat16"),)
KERNELS_HEADS_QUICK = (HeadCase((64, 32, 128), "bfloat16"),)
KERNELS_LINEAR_QUICK = (LinearCase((64, 32, 128), "bfloat16", "value_and_grad"),)


# For `compare`: calls of milliseconds, since many processes run each.
COMPARE_LOSSES = _cases((65536, 10), (256, 32768), (8192, 1000))
COMPARE_LINEAR = (1024, 256, 8192)


class TrainingCase(NamedTuple):
    """A training step of a CIFAR-10 preset at one image size, in pixels."""

    preset: str
    batch_size: int
    side: int
    train_whitening: bool = False

    @property
    def name(self) -> str:
        """Name in the tables."""
        trained = ", whitening bias trained" if self.train_whitening else ""
        return f"{self.preset}, batch {self.batch_size}, {self.side} px{trained}"


# `cpu93` is a shorter `cpu94` with the same steps.
TRAINING = (
    TrainingCase("cpu89", 144, 25),
    TrainingCase("cpu89", 144, 32),
    TrainingCase("cpu92", 256, 25),
    TrainingCase("cpu92", 256, 32),
    TrainingCase("cpu94", 256, 25, train_whitening=True),
    TrainingCase("cpu94", 256, 25),
    TrainingCase("cpu94", 256, 32),
)
TRAINING_QUICK = TRAINING[:1]


class CountCase(NamedTuple):
    """Number of samples and number of classes."""

    samples: int
    classes: int


class CategoricalCases(NamedTuple):
    """Sizes of each group of `categorical`."""

    counts: tuple[CountCase, ...]
    pmfs: tuple[tuple[int, int], ...]
    intervals: tuple[int, ...]
    dice: tuple[tuple[int, int], ...]


CATEGORICAL = CategoricalCases(
    counts=tuple(CountCase(n, k) for n in (10**7, 50_000) for k in (6, 10, 256, 65536)),
    pmfs=((1, 10**6), (1000, 1000), (10**5, 10)),
    intervals=(7, 50, 500),
    dice=((1, 6), (1, 1000), (1000, 50)),
)
CATEGORICAL_QUICK = CategoricalCases(
    counts=(CountCase(1000, 6),), pmfs=((4, 10),), intervals=(7,), dice=((2, 6),)
)
