"""Files of surveys, as the tests read them."""

from pathlib import Path

import numpy as np

ANSWERS = ("no, never", "maybe", "yes")


def write_survey(
    path: Path, answer: np.ndarray, region: np.ndarray, code: np.ndarray, age: np.ndarray
) -> Path:
    """Write a .csv of answers, regions r0, r1, ..., codes and ages.

    Answers are indices of ANSWERS; -1, and an age that is NaN, are left empty.
    """
    lines = [
        ",".join(
            (
                "" if a < 0 else f'"{ANSWERS[a]}"',
                f"r{r}",
                str(c),
                "" if np.isnan(years) else f"{years:g}",
            )
        )
        for a, r, c, years in zip(answer, region, code, age, strict=True)
    ]
    path.write_text("\n".join(["the answer,region,code,age", *lines]) + "\n")
    return path
