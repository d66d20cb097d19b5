"""The exchanges that methods are made of, each with its server half and its device half side by side."""

from fibecfed.methods.stages.count_layers import CountLayers
from fibecfed.methods.stages.curriculum_train import CurriculumTrain
from fibecfed.methods.stages.exchange import Exchange
from fibecfed.methods.stages.finetune import Finetune
from fibecfed.methods.stages.merge import Merge
from fibecfed.methods.stages.score_layers import ScoreLayers
from fibecfed.methods.stages.statistics import Statistics, summed
from fibecfed.methods.stages.train import Shared, Train, TrainWhatTravels
from fibecfed.methods.stages.warm_up import JUDGED, WarmUp

__all__ = [
    "JUDGED",
    "CountLayers",
    "CurriculumTrain",
    "Exchange",
    "Finetune",
    "Merge",
    "ScoreLayers",
    "Shared",
    "Statistics",
    "Train",
    "TrainWhatTravels",
    "WarmUp",
    "summed",
]
