"""Messages, devices, the server, and what each remembers."""

from fibecfed.federation.aggregation import AGGREGATORS, Aggregator, CoordinateMedian, Sum, WeightedMean, in_order
from fibecfed.federation.codec import EncodedSizes, Undecodable, decode, encode
from fibecfed.federation.device import Device, Site, answer
from fibecfed.federation.messages import Address, Delivery, Failure, Reply, Request
from fibecfed.federation.method import Method, Phase, Transport
from fibecfed.federation.server import PhaseDone, Server, cohort
from fibecfed.federation.state import Costs, DeviceState, ServerState
from fibecfed.federation.store import DeviceStore, DiskStore, MemoryStore, StateLost, write_atomically
from fibecfed.federation.validation import (
    COSTS,
    MOST,
    STATE_LOST,
    Criteria,
    InfoSpec,
    Number,
    OneOf,
    TensorSpec,
    judge,
    receive,
)

__all__ = [
    "AGGREGATORS",
    "COSTS",
    "MOST",
    "STATE_LOST",
    "Address",
    "Aggregator",
    "CoordinateMedian",
    "Costs",
    "Criteria",
    "Delivery",
    "Device",
    "DeviceState",
    "DeviceStore",
    "DiskStore",
    "EncodedSizes",
    "Failure",
    "InfoSpec",
    "MemoryStore",
    "Method",
    "Number",
    "OneOf",
    "Phase",
    "PhaseDone",
    "Reply",
    "Request",
    "Server",
    "ServerState",
    "Site",
    "StateLost",
    "Sum",
    "TensorSpec",
    "Transport",
    "Undecodable",
    "WeightedMean",
    "answer",
    "cohort",
    "decode",
    "encode",
    "in_order",
    "judge",
    "receive",
    "write_atomically",
]
