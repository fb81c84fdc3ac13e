"""Packaging of moodfuse."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"$', (ROOT / "moodfuse/_version.py").read_text("utf-8"), re.MULTILINE
)[1]
README = ROOT / "README.md"
SERVE = ["anyio>=4.4", "python-multipart>=0.0.34", "starlette>=1.0.1", "uvicorn>=0.30"]
DOCS = ["furo>=2025.12.19", "myst-parser>=5", "sphinx>=9,<10", "sphinx-copybutton>=0.5.2"]
TIMM = ["huggingface-hub>=1.10", "timm>=1.0.26"]
TRANSFORMERS = ["huggingface-hub>=1.10", "transformers>=5.10"]

setup(
    name="moodfuse",
    version=VERSION,
    description="Classify the emotion of music videos by late fusion of cached network features",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    # moodfuse/extract and the other three are links to the folders at the top level.
    packages=find_packages(include=["moodfuse", "moodfuse.*"]),
    package_data={
        "moodfuse": ["py.typed"],
        "moodfuse.cache": ["FORMAT.md"],
        "moodfuse.extract": ["recipes/*.toml"],
        "moodfuse.evaluate": ["*.json"],
        "moodfuse.evaluate.report": ["templates/*"],
        "moodfuse.model": ["MODEL.md.j2", "answer.schema.json"],
        "moodfuse.serve": ["openapi.json", "templates/*"],
        "moodfuse.timeline": ["templates/*"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "torch>=2.13,<2.16",
        "torchvision>=0.28,<0.30",
        "torchaudio>=2.11.1,<2.12",
        "av>=18,<20",
        "h5py>=3.15",
        "numpy>=2.0",
        "scipy>=1.13",
        "scikit-learn>=1.6",
        "lightgbm>=4.6",
        "joblib>=1.4",
        "click>=8.2",
        "rich>=12.6",
        "safetensors>=0.4",
        "matplotlib>=3.10.8",
        "threadpoolctl>=3.5",
        "pooch>=1.8",
        "requests>=2.32",
        "jinja2>=3.0",
        "markupsafe>=2.1.1",
        "pillow>=10.4",
    ],
    extras_require={
        "parquet": ["pyarrow>=21"],
        "serve": SERVE,
        "distributed": ["distributed>=2025.1"],
        "timm": TIMM,
        "transformers": TRANSFORMERS,
        "docs": DOCS,
        "dev": [
            # The page is tried in the system's own chromium; axe looks for what would keep readers out.
            "axe-playwright-python>=0.1.4",
            "distributed>=2025.1",
            "fonttools>=4.50",
            "hypothesis>=6.100",
            "import-linter>=2.17",
            "mypy>=1.18",
            "packaging>=24",
            "playwright>=1.49",
            "pyarrow>=21",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            # The packaging test builds a wheel offline, so the build backend is installed too.
            "setuptools>=77",
            "uv>=0.7",
            "wheel>=0.45",
            *DOCS,
            *SERVE,
            *TIMM,
            *TRANSFORMERS,
        ],
    },
    entry_points={"console_scripts": ["moodfuse = moodfuse.cli:main"]},
)
