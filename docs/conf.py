"""The configuration of Sphinx for the documentation: ``sphinx-build -W docs build/docs``."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent

with open(ROOT / "pyproject.toml", "rb") as _file:
    _project = tomllib.load(_file)["project"]

project = "sharedarray"
author = "sharedarray contributors"
copyright = "sharedarray contributors"
version = release = _project["version"]

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]
default_role = "py:obj"

# The notebooks are pages of this documentation, with the outputs that are stored in them. Their links to the
# README lead to the pages that say more.
_notebooks = HERE / "notebooks"
_notebooks.mkdir(exist_ok=True)
for _path in sorted((ROOT / "notebooks").glob("*.ipynb")):
    _text = _path.read_text(encoding="utf-8").replace("../README.md#pool", "../api/pool.md")
    (_notebooks / _path.name).write_text(_text.replace("../README.md", "../index.md"), encoding="utf-8")
nb_execution_mode = "off"

# Figures and tables of the benchmarks, which `pytest benchmarks --report` writes.
_figures = HERE / "_static" / "benchmarks"
_figures.mkdir(exist_ok=True, parents=True)
for _path in sorted((ROOT / "benchmarks" / "report").glob("*.png")):
    shutil.copyfile(_path, _figures / _path.name)

myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings name the types
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"sharedarray {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
