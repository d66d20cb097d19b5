"""Messages, devices, the server, and what each remembers."""

from fibecfed.federation.aggregation import AGGREGATORS, Aggregator, CoordinateMedian, Sum, WeightedMean, in_order
from fibecfed.federation.codec import EncodedSizes, Undecodable, decode, encode
from fibecfed.federation.cohort import DeviceSide
from fibecfed.federation.compression import Compression, compression_of
from fibecfed.federation.device import Device, Site
from fibecfed.federation.exchange_time import compute_seconds
from fibecfed.federation.messages import Address, Delivery, Failure, Reply, Request
from fibecfed.federation.method import Content, Members, Method, Stage, Transport, Work, next_stage
from fibecfed.federation.server import Server, StageDone, cohort
from fibecfed.federation.state import OF_DEVICES, Costs, DeviceState, ServerState
from fibecfed.federation.store import DeviceStore, DiskStore, MemoryStore, StateLost, write_atomically
from fibecfed.federation.upload import AsItIs, Upload
from fibecfed.federation.validation import (
    COSTS,
    MOST,
    STATE_LOST,
    Criteria,
    InfoSpec,
    Number,
    OneOf,
    TensorSpec,
    receive,
    validate,
)

__all__ = [
    "AGGREGATORS",
    "COSTS",
    "MOST",
    "OF_DEVICES",
    "STATE_LOST",
    "Address",
    "Aggregator",
    "AsItIs",
    "Compression",
    "Content",
    "CoordinateMedian",
    "Costs",
    "Criteria",
    "Delivery",
    "Device",
    "DeviceSide",
    "DeviceState",
    "DeviceStore",
    "DiskStore",
    "EncodedSizes",
    "Failure",
    "InfoSpec",
    "Members",
    "MemoryStore",
    "Method",
    "Number",
    "OneOf",
    "Reply",
    "Request",
    "Server",
    "ServerState",
    "Site",
    "Stage",
    "StageDone",
    "StateLost",
    "Sum",
    "TensorSpec",
    "Transport",
    "Undecodable",
    "Upload",
    "WeightedMean",
    "Work",
    "cohort",
    "compression_of",
    "compute_seconds",
    "decode",
    "encode",
    "in_order",
    "next_stage",
    "receive",
    "validate",
    "write_atomically",
]
