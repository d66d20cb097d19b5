"""All devices in this process, on one resident backbone; messages still cross as bytes."""

from collections.abc import Iterator, Sequence

from fibecfed.federation import Delivery, DeviceSide, Failure, Request, decode, encode, receive
from fibecfed.training import DeviceFailed


class InProcessTransport:
    """Encodes every message, so that sizes are real and nothing is shared by reference."""

    def __init__(self, devices: DeviceSide) -> None:
        self.devices = devices

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers in the order of the requests. The deadline cannot pass: work is done in this thread."""
        sizes: list[int] = []

        def arriving() -> Iterator[Request]:
            for request in requests:
                down = encode(request)
                sizes.append(len(down))
                yield decode(down, Request)

        for position, answer in enumerate(self.devices.answers(arriving())):
            request = requests[position]
            if isinstance(answer, DeviceFailed):
                yield Failure(request.address.device, str(answer))
            else:
                yield receive(request, sizes[position], encode(answer))
