"""Spectra: the singular values of dL/dW from its two factors, for every sample of a cell."""
