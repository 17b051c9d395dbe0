"""The simplest kind of network: a function of image and time."""

from __future__ import annotations

from gsd_cli.core.models.network_kind import NetworkKind

PLAIN = NetworkKind(
    diffusers_class="Plain", class_names=("Plain",), shape=lambda net: (1, 8, 8), classes=lambda net: None,
    call=lambda net, x, t, condition: net(x, t), encode=lambda net, x, t, full: [x], bottleneck=lambda net: net,
    output_layers=lambda net: (),
)  # fmt: skip
