"""Models: fetching, loading, writing samples as tokens, finding projections."""
