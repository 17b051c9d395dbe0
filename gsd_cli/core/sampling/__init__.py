"""Samplers of a teacher: one short function and one record each, over a Denoiser.

Each takes `noise` [B, C, H, W] ~ N(0, I) and returns images, about [-1, 1], unclamped. Further noise
of an image comes from its own seed.
"""
