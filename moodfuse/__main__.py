"""`python -m moodfuse`."""

from moodfuse.cli import main

main()
