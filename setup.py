"""Packaging: metadata, dependencies, and the top-level properties as data of the package."""

from itertools import chain
from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "quant": ["bitsandbytes>=0.49"],
    "hyper": ["hyperopt>=0.3"],
    "gguf": ["gguf>=0.17"],
    "goracs": ["POT>=0.9.5"],
    "rqvae": ["vector-quantize-pytorch>=1.20"],
    "parquet": ["pyarrow>=15"],
    "text": ["sentence-transformers>=5"],
}

setup(
    name="recbole-dealrec",
    version="0.1.0",
    description="DEALRec for RecBole: few-shot fine-tuning data for LLM recommenders, chosen by influence and effort",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.12",
    packages=[*find_packages(include=["recbole_dealrec", "recbole_dealrec.*"]), "recbole_dealrec.properties"],
    package_dir={"recbole_dealrec": "recbole_dealrec", "recbole_dealrec.properties": "properties"},
    package_data={
        "recbole_dealrec.properties": ["*.yaml", "*/*.yaml"],
        "recbole_dealrec.report": ["templates/*"],
    },
    install_requires=[
        "recbole==1.2.1",
        "torch>=2.6,<2.14",
        "transformers>=5.4,<5.24",  # 5.24 renames past_key_values
        "peft>=0.18",
        "accelerate>=1.8",
        "pyyaml>=6",
        "pandas<3",
        "scikit-learn>=1.4",
        "filelock>=3.12",
        "tqdm>=4.66",
        "colorama>=0.4",
        "jinja2>=3.1.6",  # what transformers asks for where a chat template is used
        "plotly>=5.15",
        "psutil>=5.9",
    ],
    extras_require={
        **EXTRAS,
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.30"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.12",
            "trl>=1",
            "datasets>=4.7",
            "polars>=1",
            "markdown-it-py>=3",
            *chain(*EXTRAS.values()),
        ],
    },
)
