"""Packaging of moodfuse: the four stage folders and the front door are import packages of these very names."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "moodfuse/_version.py").read_text("utf-8"), re.MULTILINE)[1]
README = ROOT / "README.md"
# moodfuse/serving/server.py builds on uvicorn's way with h11, which uvicorn brings along.
SERVE = ["anyio>=4.4", "python-multipart>=0.0.34", "starlette>=0.40", "uvicorn>=0.30"]

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
    packages=[
        "cache",
        "extract",
        "extract.media",
        "extract.networks",
        "extract.recipes",
        "fuse",
        "evaluate",
        "moodfuse",
        "moodfuse.model",
        "moodfuse.serving",
        "moodfuse.timeline",
    ],
    package_data={
        "cache": ["FORMAT.md"],
        "extract": ["recipes/*.toml"],
        "evaluate": ["templates/*"],
        "moodfuse.serving": ["schema.json", "templates/*"],
        "moodfuse.timeline": ["templates/*"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        # torchaudio 2.11 is the last one, and these ranges are those that import together with it.
        "torch>=2.11,<2.13",
        "torchvision>=0.26,<0.28",
        "torchaudio>=2.11",
        "av>=14",
        "h5py",
        "numpy",
        "scipy",
        "scikit-learn>=1.6",
        "lightgbm",
        "joblib",
        "click>=8.1",
        "rich",
        "pebble",
        "safetensors",
        "matplotlib",
        "threadpoolctl",
        "pooch",
        "jinja2",
        "markupsafe",
        "pillow",
    ],
    extras_require={
        "parquet": ["pyarrow"],
        "serve": SERVE,
        "distributed": ["distributed"],
        "dev": [
            # The page is tried in the system's own chromium; axe looks for what would keep readers out.
            "axe-playwright-python",
            "distributed",
            "hypothesis",
            "import-linter",
            "mypy",
            "playwright",
            "pyarrow",
            "pytest>=8",
            "pytest-timeout",
            "ruff",
            # The packaging test builds a wheel without fetching anything, so the build backend is installed too.
            "setuptools>=77",
            "wheel",
            *SERVE,
        ],
    },
    entry_points={"console_scripts": ["moodfuse = moodfuse.cli:main"]},
)
