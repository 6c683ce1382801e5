"""Report a survey: the answers to a question, by group, and what they depend on.

    python -m experiments.survey
        a part of the American National Election Study of 1996
    python -m experiments.survey --data FILE --column ANSWER --by GROUP --features AGE INCOME

The shares of the answers have simultaneous intervals, and are tested against equal shares, or those
of --expected. With --by, groups are compared: a two-way table with a test of independence, expected
counts, standardised residuals, Cramér's V and mutual information. With --features, the answers are
explained by a softmax (multinomial logistic) regression: coefficients, odds ratios, and a
likelihood-ratio test of each feature. Features that are numbers enter as numbers, others as
categories that are compared with their first one.

Answers have the order of --order, else of a categorical column of the .parquet, else their natural
one. Empty cells, NA and the like count as missing: each table leaves out the respondents that lack
what it needs, and says how many. All respondents count alike: sampling weights are not supported.

The run folder receives report.md, a page with the tables and pictures, and summary.json.
"""

from collections.abc import Sequence

from rich.console import Console

from experiments.common.command import one_line_errors, parse_options, say
from experiments.common.run_folder import RunFolder
from experiments.common.waiting import waiting
from experiments.survey.config import NAME, Config
from experiments.survey.report import save, show
from experiments.survey.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        config = parse_options(
            Config, argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        with waiting(console, "reading") as doing:
            result = run(config, doing)
            folder = RunFolder.create(NAME, config, config.runs_dir)
            save(result, folder, doing)
        show(result, console)
        say(console, f"Report, pictures and numbers: {folder.path}")


if __name__ == "__main__":
    main()
