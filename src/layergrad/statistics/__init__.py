"""From spectra to curves, differences, intervals and findings, in the order of the data.

``metrics`` turns spectra into numbers and ``cells`` reads those of one (model, dataset);
``bootstrap`` resamples instructions; ``bands``, ``curves`` and ``ranks`` are the arithmetic of
curves, MAD, RD and mean spectra; ``estimates`` has the effects that claims are about, with
``discrimination`` for the AUCs; ``pair`` writes the tables of one (model, dataset). ``effects``,
``claims`` and ``findings`` test the claims, and ``study`` writes the tables over all pairs.
``published`` imports statistics, ``compare`` sets two studies side by side, ``summary`` is for a
terminal. Nothing here needs a model or a GPU.
"""
