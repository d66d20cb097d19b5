"""Which parameters travel: layer scores, how many layers, and the rows a device trains of its own."""

from fibecfed.sharing.choice import (
    FunctionalCount,
    LosslessCount,
    fixed_count,
    functional_count,
    lossless_count,
    rank_layers,
)
from fibecfed.sharing.curvature import (
    DeviceLoss,
    LosslessShare,
    lossless_share,
    plateau_share,
)
from fibecfed.sharing.neurons import MomentumFisher, RowChooser, RowMask, choose_rows
from fibecfed.sharing.reset import keep_layers
from fibecfed.sharing.sensitivity import ConsensusSum, LayerChange, layer_sensitivity
from fibecfed.sharing.sites import divergence, site_count
from fibecfed.sharing.spectrum import Ritz, lanczos, lipschitz, plateau_count, ritz_gap_count

__all__ = [
    "ConsensusSum",
    "DeviceLoss",
    "FunctionalCount",
    "LayerChange",
    "LosslessCount",
    "LosslessShare",
    "MomentumFisher",
    "Ritz",
    "RowChooser",
    "RowMask",
    "choose_rows",
    "divergence",
    "fixed_count",
    "functional_count",
    "keep_layers",
    "lanczos",
    "layer_sensitivity",
    "lipschitz",
    "lossless_count",
    "lossless_share",
    "plateau_count",
    "plateau_share",
    "rank_layers",
    "ritz_gap_count",
    "site_count",
]
