"""Errors and JSON documents as they are printed.

Layer: cli. With -o json everything that is a result goes to standard output as one document,
errors included (hostagent.error/1); progress and hints go to standard error.
"""

import json
import traceback
from collections.abc import Iterable
from typing import Any

import click

from hostagent.cli.tables import plain
from hostagent.core.errors import HostagentError


def show_json(document: dict[str, Any]) -> None:
    """Print one document."""
    click.echo(json.dumps(document, indent=2))


def show_warnings(warnings: Iterable[str]) -> None:
    """Print what is not as it should be, beside the result."""
    for warning in warnings:
        click.echo(f"warning: {plain(warning)}", err=True)


def show_error(error: HostagentError, as_json: bool) -> None:
    """Print an error with what to do next."""
    if as_json:
        show_json(_error(error.code, error.message, error.hint, changed=error.changed))
        return
    click.echo(f"hostagent: {plain(error.message)}", err=True)
    if error.hint:
        click.echo(f"  {plain(error.hint)}", err=True)


def show_bug(error: Exception, as_json: bool) -> None:
    """Print a fault of our own: all that a report of it needs."""
    message = f"a bug in hostagent: {error!r}"
    if as_json:
        show_json(_error("bug", message, "please report it", changed=True))
    click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"hostagent: {message}", err=True)


def _error(code: str, message: str, hint: str, *, changed: bool) -> dict[str, Any]:
    return {
        "schema": "hostagent.error/1",
        "code": code,
        "message": message,
        "hint": hint,
        "changed": changed,
        "warnings": [],
    }
