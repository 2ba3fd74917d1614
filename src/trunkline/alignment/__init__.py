"""Alignment: a branch that writes is taken further, by preferences or by rewards. `align` is the verb; `roles` says who takes part."""
