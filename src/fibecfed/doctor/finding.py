"""What one check came to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """``fix`` says what must be done; None: nothing."""

    subject: str
    text: str
    fix: str | None = None
