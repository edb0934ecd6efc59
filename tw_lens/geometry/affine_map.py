"""Affine maps between two sets of points, fitted by ridge regression."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STRENGTHS = np.logspace(-6, 1, 8)  # relative to the mean squared entry of a centred column


def fit_affine_map(
    x: Float[Tensor, "points d"], y: Float[Tensor, "points e"], weight: Float[Tensor, " points"]
) -> Float[Tensor, "d_and_1 e"]:
    """Return the map `y = [x, 1] M` of a weighted ridge regression, offset in the last row.

    The strength of the penalty is the one with the least leave-one-out error among eight. With
    fewer than three points the map is constant: their weighted mean.

    Args:
        x: inputs.
        y: outputs.
        weight: of every point, above 0.

    Source: ridge regression with generalised cross-validation, scikit-learn's `RidgeCV`.
    """
    mean = (weight[:, None] * y).sum(0) / weight.sum()
    if len(x) < 3:
        return torch.cat([x.new_zeros(x.shape[1], y.shape[1]), mean[None]])
    from sklearn.linear_model import RidgeCV

    center = (weight[:, None] * x).sum(0) / weight.sum()
    size = float((weight[:, None] * (x - center).square()).sum() / x.shape[1])
    model = RidgeCV(alphas=STRENGTHS * max(size, 1e-12))
    model.fit(x.double().numpy(), y.double().numpy(), sample_weight=weight.double().numpy())
    coefficients = torch.tensor(model.coef_).view(y.shape[1], x.shape[1])
    offset = torch.tensor(model.intercept_).view(1, y.shape[1])
    return torch.cat([coefficients.T, offset]).float()
