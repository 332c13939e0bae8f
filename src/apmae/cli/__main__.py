"""``python -m apmae.cli``."""

from apmae.cli import main

main()
