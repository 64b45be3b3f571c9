"""Inheritance: the order of the classes, and what Python does along it."""

from underhood.inheritance.hierarchies import (
    build_classes,
    keeps_children_first,
    keeps_local_precedence,
    keeps_monotonicity,
    random_hierarchy,
    smallest_hierarchy,
)
from underhood.inheritance.linearization import (
    RULES,
    MergeStep,
    linearize,
    merge_steps,
)
from underhood.inheritance.lookup import Found, Super, find_attribute, get_attribute
from underhood.inheritance.picture import (
    Picture,
    draw_hierarchy,
    draw_lookup,
    draw_merge,
)
from underhood.inheritance.samples import random_instance

__all__ = [
    "RULES",
    "Found",
    "MergeStep",
    "Picture",
    "Super",
    "build_classes",
    "draw_hierarchy",
    "draw_lookup",
    "draw_merge",
    "find_attribute",
    "get_attribute",
    "keeps_children_first",
    "keeps_local_precedence",
    "keeps_monotonicity",
    "linearize",
    "merge_steps",
    "random_hierarchy",
    "random_instance",
    "smallest_hierarchy",
]
