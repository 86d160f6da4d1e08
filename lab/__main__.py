"""`python -m lab`: the same as the script lab/lab."""

from lab.cli import main

main()
