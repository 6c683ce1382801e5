"""Print the lower bound of every requirement as a pin, a constraints file for pip.

jax 0.10 is the lowest here and the last for Python 3.11, which is what these pins install on.
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
