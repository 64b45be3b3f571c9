"""Objects and the names that refer to them: the header in memory, and pictures."""

from underhood.objects.graph import Name, Node, ObjectGraph, Slot, object_graph
from underhood.objects.memory import FIELDS, Header, header

__all__ = [
    "FIELDS",
    "Header",
    "Name",
    "Node",
    "ObjectGraph",
    "Slot",
    "header",
    "object_graph",
]
