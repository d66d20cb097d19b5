"""Prints the bytes of a message of NVFlare, as its FOBS encodes the model."""

from local_training import classifier, trained
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.decomposers import numpy_decomposers
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

flare_decomposers.register()
numpy_decomposers.register()
params = {name: tensor.numpy() for name, tensor in trained(classifier()).items()}
print(len(fobs.dumps(FLModelUtils.to_shareable(FLModel(params=params)))))
