"""`fairseq-distill configs`: print a folder of the installed recipes, for `--config-dir`."""

import argparse
from pathlib import Path

from fairseq_distill.errors import UserError

HELP = "print a folder of the installed recipes, for fairseq-hydra-train --config-dir"
KINDS = ("distill", "finetune")


def find_recipes(kind: str = "distill") -> Path:
    """Return the folder that holds the recipes: inside the installed package, or the checkout's config.

    Raises:
        UserError: the folder is not there.
    """
    # In a checkout `fairseq_distill/config` is a link to `config`; a wheel holds the files themselves.
    folder = Path(__file__).resolve().parent.parent / "config" / kind
    if not folder.is_dir():
        raise UserError(f"the recipes are not in {folder}: install fairseq-distill again, from a checkout with links")
    return folder.resolve()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("kind", nargs="?", choices=KINDS, default=KINDS[0], help="which recipes (default: distill)")


def run(args: argparse.Namespace) -> None:
    """Print the folder."""
    print(find_recipes(args.kind))
