"""Constant-velocity Kalman filter over many objects at once: states [N, 4] (x, y, vx, vy), covariances [N, 4, 4].

Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation (2001), section 6.2.
"""

from __future__ import annotations

import numpy as np

ASYMMETRY_MAX = 1e-6  # of a covariance, as a share of its trace


def direction_covariance(heading_rad: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Covariances [N, 2, 2] with standard deviation ``along`` the heading and ``across`` it."""
    c, s = np.cos(heading_rad), np.sin(heading_rad)
    a, b = np.square(along), np.square(across)
    out = np.empty((len(c), 2, 2))
    out[:, 0, 0] = a * c * c + b * s * s
    out[:, 1, 1] = a * s * s + b * c * c
    out[:, 0, 1] = out[:, 1, 0] = (a - b) * c * s
    return out


def predict(
    state: np.ndarray, covariance: np.ndarray, acceleration_covariance: np.ndarray, dt_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """State and covariance ``dt_s`` later, under piecewise constant white acceleration with covariance [N, 2, 2]."""
    moved = state.copy()
    moved[:, :2] += dt_s * state[:, 2:]
    pp, pv, vv = covariance[:, :2, :2], covariance[:, :2, 2:], covariance[:, 2:, 2:]
    out = np.empty_like(covariance)
    out[:, :2, :2] = pp + dt_s * (pv + pv.transpose(0, 2, 1)) + dt_s**2 * vv + dt_s**4 / 4 * acceleration_covariance
    out[:, :2, 2:] = pv + dt_s * vv + dt_s**3 / 2 * acceleration_covariance
    out[:, 2:, :2] = out[:, :2, 2:].transpose(0, 2, 1)
    out[:, 2:, 2:] = vv + dt_s**2 * acceleration_covariance
    return moved, out


def inverse_2x2(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse and determinant of symmetric positive [..., 2, 2]."""
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = np.maximum(a * d - b * b, 1e-12)
    out = np.empty_like(matrix)
    out[..., 0, 0], out[..., 1, 1] = d / determinant, a / determinant
    out[..., 0, 1] = out[..., 1, 0] = -b / determinant
    return out, determinant


def update(
    state: np.ndarray, covariance: np.ndarray, position_m: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse measured positions [N, 2] with covariance [N, 2, 2]; Joseph form, so the result stays positive."""
    inverse, _ = inverse_2x2(covariance[:, :2, :2] + noise)
    gain = covariance[:, :, :2] @ inverse  # [N, 4, 2]
    innovation = position_m - state[:, :2]
    moved = state + (gain @ innovation[:, :, None])[:, :, 0]
    keep = np.broadcast_to(np.eye(4), covariance.shape).copy()
    keep[:, :, :2] -= gain
    fused = keep @ covariance @ keep.transpose(0, 2, 1) + gain @ noise @ gain.transpose(0, 2, 1)
    # Over hundreds of updates rounding grows into asymmetry, and that into negative variances: nip it in the bud.
    swapped = fused.transpose(0, 2, 1)
    lopsided = np.abs(fused - swapped).max((1, 2)) > ASYMMETRY_MAX * np.trace(fused, axis1=1, axis2=2)
    fused[lopsided] = 0.5 * (fused[lopsided] + swapped[lopsided])
    return moved, fused


def mahalanobis(
    position_m: np.ndarray, covariance: np.ndarray, measured_m: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [N, M] between predicted [N] and measured [M] positions, and the log determinants [N, M]."""
    inverse, determinant = inverse_2x2(covariance[:, None] + noise[None])
    dx = measured_m[None, :, 0] - position_m[:, None, 0]
    dy = measured_m[None, :, 1] - position_m[:, None, 1]
    square = inverse[..., 0, 0] * dx * dx + 2 * inverse[..., 0, 1] * dx * dy + inverse[..., 1, 1] * dy * dy
    return square, np.log(determinant)


def innovation_square(
    state: np.ndarray, covariance: np.ndarray, position_m: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Normalised squared innovations [N] of measured positions [N, 2], each of its own object."""
    inverse, _ = inverse_2x2(covariance[:, :2, :2] + noise)
    innovation = position_m - state[:, :2]
    return (innovation[:, None] @ inverse @ innovation[:, :, None])[:, 0, 0]
