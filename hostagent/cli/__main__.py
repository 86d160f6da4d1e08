"""`python -m hostagent.cli`: the same as the console script."""

from hostagent.cli import main

main()
