"""The sphere of radius sqrt(d), where latents z ~ N(0, I) live: angles, slerp, rotations, tangents."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_sphere(z: Tensor) -> Tensor:
    """Scale each latent of z [B, ...] to norm sqrt(d)."""
    d = z[0].numel()
    return z * (math.sqrt(d) / z.flatten(1).norm(dim=1)).reshape(-1, *([1] * (z.ndim - 1)))


def tangent_part(v: Tensor, z: Tensor) -> Tensor:
    """v [B, ...] without its part along z: a tangent to the sphere at z."""
    u, w = z.flatten(1), v.flatten(1)
    return (w - (w * u).sum(1, keepdim=True) / u.square().sum(1, keepdim=True) * u).reshape(v.shape)


def slerp(a: Tensor, b: Tensor, s: Tensor | float) -> Tensor:
    """Spherical interpolation of *flattened* latents [B, ...] at s in [0, 1] (float or [B]).

    The norm is interpolated linearly between the ends' norms, so the ends are met exactly and
    equal norms are kept. Falls back to lerp where a and b are (anti)parallel.
    """
    u, v = a.flatten(1), b.flatten(1)
    s = torch.as_tensor(s, dtype=u.dtype, device=u.device).reshape(-1, 1)  # [B, 1] or [1, 1]
    norm_u, norm_v = u.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
    u1, v1 = u / norm_u, v / norm_v
    theta = angle(a, b).reshape(-1, 1)
    sin = theta.sin()
    flat = sin < 1e-6
    safe = torch.where(flat, torch.ones_like(sin), sin)
    direction = (((1 - s) * theta).sin() * u1 + (s * theta).sin() * v1) / safe
    mixed = torch.where(flat, u1.lerp(v1, s.expand_as(u1)), direction)
    return (mixed * norm_u.lerp(norm_v, s.expand_as(norm_u))).reshape(-1, *a.shape[1:])


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between flattened latents, radians in [0, pi], [B]; accurate for small angles too."""
    u = torch.nn.functional.normalize(a.flatten(1), dim=1)
    v = torch.nn.functional.normalize(b.flatten(1), dim=1)
    # arccos loses half the digits near 0; the half-chord form does not
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def rotate(z: Tensor, w: Tensor, tau: Tensor) -> Tensor:
    """cos(tau) z + sin(tau) w for z, w [B, ...] and tau [B] in radians: N(0, I) again."""
    tau = tau.reshape(-1, *([1] * (z.ndim - 1)))
    return tau.cos() * z + tau.sin() * w


def tangent(w: Tensor, z: Tensor) -> Tensor:
    """The part of w orthogonal to z, scaled to z's norm, [B, ...]: `rotate(z, tangent(w, z), tau)`
    stays on z's sphere and turns by exactly tau."""
    u, v = z.flatten(1), w.flatten(1)
    norm = u.norm(dim=1, keepdim=True)
    v = v - (v * u).sum(1, keepdim=True) / norm.square() * u
    return (v * norm / v.norm(dim=1, keepdim=True)).reshape(w.shape)
