"""Which parameters travel: layer scores, how many layers, and the rows a device trains of its own."""

from fibecfed.sharing.choice import (
    Chooser,
    FunctionalCount,
    LosslessCount,
    choose_layers,
    fixed_count,
    functional_count,
    informative,
    jaccard,
    lossless_count,
    rank_layers,
)
from fibecfed.sharing.curvature import (
    DeviceLoss,
    LosslessShare,
    hessian_vector_product,
    lossless_share,
    plateau_share,
)
from fibecfed.sharing.neurons import MomentumFisher, RowChooser, RowMask, choose_rows
from fibecfed.sharing.reset import keep_layers, reset_losses
from fibecfed.sharing.sensitivity import ConsensusSum, LayerChange, aggregate_scores, layer_sensitivity
from fibecfed.sharing.spectrum import Ritz, dense_hessian, gap_count, lanczos, lipschitz, plateau_count, ritz_gap_count

__all__ = [
    "Chooser",
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
    "aggregate_scores",
    "choose_layers",
    "choose_rows",
    "dense_hessian",
    "fixed_count",
    "functional_count",
    "gap_count",
    "hessian_vector_product",
    "informative",
    "jaccard",
    "keep_layers",
    "lanczos",
    "layer_sensitivity",
    "lipschitz",
    "lossless_count",
    "lossless_share",
    "plateau_count",
    "plateau_share",
    "rank_layers",
    "reset_losses",
    "ritz_gap_count",
]
