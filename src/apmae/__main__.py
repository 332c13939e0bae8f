"""``python -m apmae``: the command line, for when the ``apmae`` script is not on the path."""

from apmae.cli import main

main()
