"""Options that all commands that move guests have.

Layer: cli.
"""

import click

parallel = click.option(
    "--parallel",
    type=click.IntRange(1, 16),
    default=None,
    metavar="N",
    help="Guests moved at once. [default: by the idle CPUs, at most 4]",
)
bandwidth = click.option(
    "--bandwidth",
    type=click.IntRange(0, 1_000_000),
    default=0,
    metavar="MIB/S",
    help="The most that each move takes of the link. [default: no limit]",
)
