"""Measurements of gsd and experiments with it, by topic. They are no part of the installed package.

Each script opens with its question, how long it takes, what it writes and its command. Scripts are modules, and run
from the root of the repository:

    python -m benchmarks.comparison.tables --help

Times are those of two CPU cores without a GPU, and vary with the machine.
"""
