"""Package `recbole_rawp`; `properties/` ships inside it as `recbole_rawp.properties`."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

setup(
    name="recbole-rawp",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "recbole_rawp/__init__.py").read_text())[1],
    description="RAWP-FT for RecBole: recommenders whose ranking survives small changes of their weights",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.12",  # ray 2.6.3, which RecBole asks for, has no wheel for 3.12
    packages=["recbole_rawp", *(f"recbole_rawp.{part}" for part in ("attacks", "model", "per_user", "properties"))],
    package_dir={"recbole_rawp": "recbole_rawp", "recbole_rawp.properties": "properties"},
    package_data={"recbole_rawp.properties": ["*.yaml", "*/*.yaml"]},
    install_requires=[
        "recbole==1.2.1",
        "torch>=2.1",
        "numpy<2",  # RecBole's Config needs np.float_, ray 2.6.3 np.bool8
        "pandas<3",  # under 3, RecBole's chained fillna(inplace=True) is silently lost
        "scipy",
        "setuptools<81",  # ray 2.6.3 imports pkg_resources
        "pyyaml",
        "matplotlib",
        "tabulate",
        "tqdm",
    ],
    extras_require={"test": ["pytest", "ruff", "mypy", "types-PyYAML", "types-tabulate"]},
    entry_points={"console_scripts": ["recbole-rawp = recbole_rawp.cli:main"]},
)
