"""Whether the metrics are right, and what they see."""
