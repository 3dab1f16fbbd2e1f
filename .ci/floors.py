"""Print the oldest allowed version of every requirement in pyproject.toml, as a constraints file for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = (line for lines in project["optional-dependencies"].values() for line in lines)
for line in (*project["dependencies"], *extras):
    if ">=" in line:
        print(re.sub(r"(\[.*\])?>=", "==", line))
