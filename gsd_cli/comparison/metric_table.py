"""Every metric of `gsd bench`: the records behind the names in `catalogue.registry.METRICS`, without its aliases, in
the same order.

A new metric is a `Metric` record in the module of its family, a line here and a name there.
"""

from __future__ import annotations

from gsd_cli.comparison.edits import EDIT
from gsd_cli.comparison.fidelity import FD, GRAIN, KID, PRECISION_RECALL
from gsd_cli.comparison.latent_space import DIVERSITY, ISOMETRY, PPL
from gsd_cli.comparison.resources import MEMORY, THROUGHPUT, TIME
from gsd_cli.comparison.texts import CLIP_SCORE

METRICS = (FD, KID, PRECISION_RECALL, CLIP_SCORE, GRAIN, PPL, ISOMETRY, DIVERSITY, TIME, MEMORY, THROUGHPUT, EDIT)
