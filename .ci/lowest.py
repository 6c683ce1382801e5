"""Print the lower bound of every requirement as a pin, a constraints file for pip.

The lowest jax, 0.10, is the last for Python 3.11, so these pins are installed on that.
"""

import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
for requirement in chain(project["dependencies"], *extras):
    name, _, version = requirement.partition(">=")
    if version:  # an extra that names another one has none
        print(f"{name}=={version}")
