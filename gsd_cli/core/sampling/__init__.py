"""Samplers of a teacher: one short function each, over a Denoiser.

Each takes `noise` [B, C, H, W] ~ N(0, I) and returns images, about [-1, 1], unclamped. What is
random beyond that comes from each image's own seed.
"""
