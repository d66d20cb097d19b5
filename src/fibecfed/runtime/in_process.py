"""All devices in this process, one after another on one resident backbone; messages still cross as bytes."""

from collections.abc import Iterator, Sequence

from fibecfed.federation import Delivery, Failure, Request, Site, answer, decode, encode, receive
from fibecfed.training import DeviceFailed


class InProcessTransport:
    """Encodes every message, so that sizes are real and nothing is shared by reference."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers in the order of the requests. The deadline cannot pass: work is done in this thread."""
        for request in requests:
            down = encode(request)
            number = request.address.device
            try:
                up = encode(answer(self.site, decode(down, Request)))
            except DeviceFailed as error:
                yield Failure(number, str(error))
                continue
            yield receive(request, len(down), up)
