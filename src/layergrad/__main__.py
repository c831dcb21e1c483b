"""``python -m layergrad``."""

from layergrad.cli import main

main()
