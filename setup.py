"""Set the long description, the README; all other metadata stand in pyproject.toml and setup.cfg.

A package index shows it outside the tree, where relative links lead nowhere. VSR_README_BASE, at build time, is the
address of the tree of a release, such as ``https://HOST/OWNER/vsr/raw/v0.1.0/``, and is put before each of them.
"""

import os
import re
from pathlib import Path

from setuptools import setup

RELATIVE = re.compile(r"(?<=\]\()(?![a-z]+:|#)")
"""Where a relative target of a Markdown link or picture begins."""

readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(
    long_description=RELATIVE.sub(os.environ.get("VSR_README_BASE", ""), readme),
    long_description_content_type="text/markdown",
)
