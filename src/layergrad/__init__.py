"""Spectra of the gradients in each layer of a language model, as a reproducible workflow."""

__version__ = "0.1.0"
