"""``python -m megadape``."""

from megadape.cli import main

main()
