"""Figures: one module a family, each a pure function from tables to an Altair chart."""
