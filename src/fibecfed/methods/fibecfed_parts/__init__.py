"""What only FibecFed needs beside its stages: its plan, a device's initialization, how layers are counted."""

from fibecfed.methods.fibecfed_parts.plan import Plan

__all__ = ["Plan"]
