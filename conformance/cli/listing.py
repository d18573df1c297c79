"""``dense-conformance list``: prints the implementations, the requirements and the profiles."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from conformance.running.options import add_to_command


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``list``."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the contract as a document")
    form.add_argument(
        "--json",
        action="store_true",
        help="print implementations, requirements and profiles as JSON",
    )
    add_to_command(parser, ["level"])


def show_list(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Print the implementations, the requirements and the profiles."""
    from conformance.report import contract

    if options.json:
        data = contract.as_data(options.level)
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    elif options.markdown:
        text = contract.markdown(options.level)
    else:
        text = contract.plain_listing(options.level)
    sys.stdout.write(text)
    return 0
