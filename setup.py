"""Package `recbole_rawp`; `properties/` ships inside it as `recbole_rawp.properties`."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# RecBole asks for ray <= 2.6.3, which has no wheel for Python 3.12: there `pip install --no-deps recbole==1.2.1`
# adds RecBole, and what it needs besides ray is asked for here.
BEFORE_312, SINCE_312 = 'python_version < "3.12"', 'python_version >= "3.12"'
RECBOLE_WITHOUT_RAY = [
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "plotly>=4",
    "psutil>=5.9",
    "scikit-learn",
    "tensorboard>=2.5",
    "texttable>=0.9",
    "thop",
]

setup(
    name="recbole-rawp",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "recbole_rawp/__init__.py").read_text())[1],
    description="RAWP-FT for RecBole: recommenders whose ranking survives small changes of their weights",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=[*find_packages(include=["recbole_rawp", "recbole_rawp.*"]), "recbole_rawp.properties"],
    package_dir={"recbole_rawp": "recbole_rawp", "recbole_rawp.properties": "properties"},
    package_data={"recbole_rawp.properties": ["*.yaml", "*/*.yaml"], "recbole_rawp.report": ["*.j2", "*.js"]},
    install_requires=[
        f"recbole==1.2.1; {BEFORE_312}",
        *(f"{package}; {SINCE_312}" for package in RECBOLE_WITHOUT_RAY),
        "torch>=2.1",
        "numpy",
        "pandas<3",  # under 3, RecBole's chained fillna(inplace=True) is silently lost
        "scipy",
        "setuptools<81",  # ray 2.6.3 imports pkg_resources, thop distutils
        "pyyaml",
        "filelock",
        "jinja2",
        "markdown-it-py",
        "matplotlib",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        "completion": ["argcomplete"],
        "docs": ["ipykernel", "mkdocs-jupyter", "mkdocs-material", "mkdocstrings[python]"],
        "test": [
            "argcomplete",
            "nbmake",
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tabulate",
            "torchao",
        ],
    },
    entry_points={"console_scripts": ["recbole-rawp = recbole_rawp.cli.main:main"]},
)
