"""`adapter`: bottleneck adapters, federated (Houlsby et al. 2019).

h + W_up GELU(W_down h) after the attention and after the feed-forward of each of L layers, before the skip
connection (section 2.1). Made federated by averaging all that Houlsby et al. train, weighted by n_k: adapters, the
layers' LayerNorms (as they are, scale and shift) and the head. Width m, hidden size d, C outputs:

    parameters   L (2 (2 m d + m + d) + 4 d) + C d + C      (4 d: two LayerNorms; RMSNorms have no shift: 2 d)
    bytes        4 x parameters, down and up, for each sampled device and round, plus the messages' headers
"""

from typing import ClassVar

from fibecfed.methods.base import FederatedAveraging


class Adapter(FederatedAveraging):
    """FedAvg over bottleneck adapters, the layers' normalisations and the head."""

    name: ClassVar[str] = "adapter"
    place: ClassVar[int] = 240
    paper: ClassVar[str] = "Houlsby et al. 2019"
    trains: ClassVar[str] = "two bottleneck adapters and the LayerNorms of every layer, and the head"
    tuning: ClassVar[str] = "adapter"
