"""Checks before a run: what is there, what is not, and what to do about it."""

from fibecfed.doctor.finding import Finding
from fibecfed.doctor.language_model import check_learning, check_rows, check_template
from fibecfed.doctor.machines import check_device, check_flower, check_server
from fibecfed.doctor.network import certificate_problem, check_certificate, check_listening, check_reachable
from fibecfed.doctor.run import check_data, check_model, check_output, check_settings, check_versions

__all__ = [
    "Finding",
    "certificate_problem",
    "check_certificate",
    "check_data",
    "check_device",
    "check_flower",
    "check_learning",
    "check_listening",
    "check_model",
    "check_output",
    "check_reachable",
    "check_rows",
    "check_server",
    "check_settings",
    "check_template",
    "check_versions",
]
