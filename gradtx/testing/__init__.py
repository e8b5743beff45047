"""What holds for every transform, as a check for transforms that live elsewhere."""

from .check import check_transform
from .properties import GROUPS, PROPERTIES, Property
from .report import CheckFailed, Finding, Report
from .subject import Subject

__all__ = [
    "GROUPS",
    "PROPERTIES",
    "CheckFailed",
    "Finding",
    "Property",
    "Report",
    "Subject",
    "check_transform",
]
