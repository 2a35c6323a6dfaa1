"""Where a command's words go: text for people, or one JSON object as the last line of stdout."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console

from rlkit.cli.streams import enduring

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add `--json` to a command, as the parameter `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
    )(command)


def console(as_json: bool, endures: bool = False) -> Console:
    """For people: standard output, or standard error where standard output is for JSON.

    `endures`: what can't be written is no error.
    """
    stream = sys.stderr if as_json else sys.stdout
    # A path may hold brackets and colons, and must come out in one piece.
    return Console(
        file=enduring(stream) if endures and stream is not None else stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def emit_json(result: Mapping[str, Any]) -> None:
    """Print `result` as one line of strict JSON: a NaN or an infinity becomes null."""
    text = json.dumps(_finite(result), ensure_ascii=False, allow_nan=False)
    # of names that are no text; as UTF-8 they can't be printed
    click.echo(re.sub("[\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
