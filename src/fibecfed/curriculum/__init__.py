"""Which examples a device trains on in which round: scores, orders and pacing."""

from fibecfed.curriculum.diagnostics import (
    GROUP_SHARE_WARNING,
    LogHistogram,
    group_share,
    group_share_by_chance,
    log_histogram,
    rank_stability,
)
from fibecfed.curriculum.fisher import FisherPass, FisherScorer
from fibecfed.curriculum.order import (
    Order,
    Selection,
    batches_easy_first,
    draw,
    easy_first,
    importance_sample,
    random_order,
    random_subset,
)
from fibecfed.curriculum.pacing import Pacing, capped_size, prefix_fraction, prefix_size
from fibecfed.curriculum.refresh import GradientRecorder, RunningDifficulty
from fibecfed.curriculum.scoring import ScoreKind, Scores, score
from fibecfed.curriculum.text_scores import length, rarity

__all__ = [
    "GROUP_SHARE_WARNING",
    "FisherPass",
    "FisherScorer",
    "GradientRecorder",
    "LogHistogram",
    "Order",
    "Pacing",
    "RunningDifficulty",
    "ScoreKind",
    "Scores",
    "Selection",
    "batches_easy_first",
    "capped_size",
    "draw",
    "easy_first",
    "group_share",
    "group_share_by_chance",
    "importance_sample",
    "length",
    "log_histogram",
    "prefix_fraction",
    "prefix_size",
    "random_order",
    "random_subset",
    "rank_stability",
    "rarity",
    "score",
]
