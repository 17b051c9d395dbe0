"""Imported only by the fork server: see `tests.support.warm`."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}

from tests.support.warm import preload

preload()
