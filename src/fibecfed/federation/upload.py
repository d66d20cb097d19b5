"""The seam between what a device found and what is sent, and its mirror at the server.

Clipping, noise and masking belong here; today everything passes as it is. What numbers look like on the wire is decided
after it, in compression.py. Randomness that protects privacy must never come from ``seed``, which server and devices
share: whoever knows it could take the noise away.
"""

from typing import Protocol

from fibecfed.federation.messages import Reply


class Upload(Protocol):
    """What happens to replies on their way; both halves of a run have the same one."""

    def outgoing(self, reply: Reply) -> Reply:
        """On the device, before the reply is compressed and becomes bytes."""

    def incoming(self, reply: Reply) -> Reply:
        """At the server, after the reply was validated and before it is folded."""


class AsItIs:
    """Replies are sent and folded unchanged."""

    def outgoing(self, reply: Reply) -> Reply:
        return reply

    def incoming(self, reply: Reply) -> Reply:
        return reply
