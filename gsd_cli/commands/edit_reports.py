"""gsd edit: what is printed of an edit, and where it is warned of."""

from __future__ import annotations

from gsd_cli.base.session import Session
from gsd_cli.core.editing.edit_image import Edited

FAR = 0.5
"""The share of the usual distance of two images from which an edit changed much else."""
ASIDE = 2.0
"""Standard deviations by which an attribute that was not edited may change without a warning."""
TOLERANCE = 0.25
"""Standard deviations by which a reached change may differ from the strength without a warning."""


def report_reached(name: str, edited: Edited, wanted: list[float], reached: list[float], session: Session) -> None:
    """Print the change that the edit reached, and warn where it is off by more than TOLERANCE."""
    session.say(f"{name}: reached {', '.join(f'{r:+.2f}' for r in reached)} standard deviations")
    if edited.even and len(wanted) > 2:
        session.say("images between the ends are at equal steps of the image, not at equal strengths")
    ends = (0, len(wanted) - 1)
    for k, (strength, found) in enumerate(zip(wanted, reached, strict=True)):
        if abs(found - strength) > TOLERANCE and (k in ends or not edited.even):
            session.warn(f"{name}: this image reaches {found:+.2f} of {strength:+g} standard deviations")


def report_change(distances: list[float], wanted: list[float], usual: float, session: Session) -> None:
    """Print how much a text changed the image."""
    shares = [f"{d / max(usual, 1e-12):.0%} at {s:+g}" for s, d in zip(wanted, distances, strict=True)]
    session.say(f"changed by {', '.join(shares)}, as shares of the squared distance of two random images of one text")


def report_distance(wanted: list[float], distances: list[float], usual: float, session: Session) -> None:
    """Warn where an edit changed much else: where its image is far from the original by the encoder's features."""
    far = [f"{d / usual:.0%} at {s:+g}" for s, d in zip(wanted, distances, strict=True) if d > FAR * usual]
    if far:
        session.warn(
            f"much else of the image changed: {', '.join(far)}, as shares of the squared distance of random images; "
            "smaller strengths keep more"
        )


def report_others(wanted: list[float], changes: dict[str, list[float]], session: Session) -> None:
    """Warn where an attribute that was not edited changed much. changes: in standard deviations, one per strength."""
    for name, values in changes.items():
        far = [f"{value:+.1f} at {s:+g}" for s, value in zip(wanted, values, strict=True) if abs(value) > ASIDE]
        if far:
            session.warn(
                f"{name} changed too, in standard deviations: {', '.join(far)}; smaller strengths, or "
                f"--preserve {name}, keep more of it"
            )
