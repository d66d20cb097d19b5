"""Messages, devices, the server, and what each remembers."""

from fibecfed.federation.aggregation import AGGREGATORS, Aggregator, CoordinateMedian, Sum, WeightedMean, in_order
from fibecfed.federation.codec import Undecodable, decode, encode
from fibecfed.federation.device import Device, Site, answer
from fibecfed.federation.messages import Address, Delivery, Failure, Reply, Request
from fibecfed.federation.method import Method, Phase, Transport
from fibecfed.federation.server import PhaseDone, Server, cohort
from fibecfed.federation.state import Costs, DeviceState, ServerState
from fibecfed.federation.store import DeviceStore, DiskStore, MemoryStore, write_atomically

__all__ = [
    "AGGREGATORS",
    "Address",
    "Aggregator",
    "CoordinateMedian",
    "Costs",
    "Delivery",
    "Device",
    "DeviceState",
    "DeviceStore",
    "DiskStore",
    "Failure",
    "MemoryStore",
    "Method",
    "Phase",
    "PhaseDone",
    "Reply",
    "Request",
    "Server",
    "ServerState",
    "Site",
    "Sum",
    "Transport",
    "Undecodable",
    "WeightedMean",
    "answer",
    "cohort",
    "decode",
    "encode",
    "in_order",
    "write_atomically",
]
