"""Functions of a linear head, compared with stored logits and with a loop over chunks of rows."""

from benchmarks.heads.benchmark import run as run
