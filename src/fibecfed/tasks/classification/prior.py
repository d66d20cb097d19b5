"""A device's own label mix against everybody's."""

import numpy as np
import torch
from torch import Tensor


def log_prior_ratio(own: np.ndarray, everyone: np.ndarray) -> Tensor:
    """(C,) log(pi_k / pi) from label counts, each Laplace-smoothed by 1 (docs/method.md section 8)."""
    mine, all_ = (own + 1) / (own + 1).sum(), (everyone + 1) / (everyone + 1).sum()
    return torch.from_numpy(np.log(mine / all_)).float()
