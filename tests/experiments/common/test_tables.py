"""Tables whose numbers are never cut, also those that hold spaces."""

import pytest
from rich.console import Console

from experiments.common.tables import fits, new_table, show

CELLS = ("12.3 %", "1.234 (1.100, 1.300)")
WIDTH = 4 + len("agree") + sum(map(len, CELLS)) + 6


def table():
    made = new_table(None, ["answer", "share", "odds ratio"])
    made.add_row("strongly agree", *CELLS)
    return made


@pytest.mark.parametrize("narrower", [0, 1, 2, 12])
def test_a_number_with_spaces_is_not_cut(narrower, capsys):
    console = Console(width=WIDTH + 3 - narrower)  # "strongly" is longer than "answer"
    assert fits(console, table()) == (narrower == 0)
    show(console, table())
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in CELLS)
    assert ("odds ratio: 1.234" in shown) == (narrower > 0)
