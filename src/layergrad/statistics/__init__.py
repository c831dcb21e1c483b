"""From spectra to curves, differences and intervals, in the order of the data.

``metrics`` turns spectra into numbers, ``bootstrap`` resamples instructions, ``bands`` cuts the
depth, ``curves`` holds the arithmetic of curves, MAD and RD, ``pair`` makes the tables of one
(model, dataset) and ``study`` those over all pairs. Nothing here needs a model or a GPU.
"""
