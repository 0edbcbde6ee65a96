"""`fairseq-distill`: the command line, one module of this folder for each subcommand."""

import argparse
import logging
import sys
from typing import List, Optional

from ..errors import UserError
from . import clusters, configs, evaluate, info, manifest, predict, prune, shapes, similarity, units

_COMMANDS = {
    "info": info,
    "shapes": shapes,
    "clusters": clusters,
    "similarity": similarity,
    "units": units,
    "prune": prune,
    "evaluate": evaluate,
    "predict": predict,
    "manifest": manifest,
    "configs": configs,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each module gives HELP, add_arguments(parser) and run(args) -> exit code."""
    parser = argparse.ArgumentParser(
        prog="fairseq-distill",
        description="Look into, compress and evaluate speech encoders (training is fairseq's own).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run a subcommand; a `UserError` becomes one sentence on stderr and exit code 1."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger().setLevel(logging.INFO)  # which basicConfig leaves alone if something had set it up before
    for handler in logging.getLogger().handlers:  # fairseq's imports may have set one up before
        handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    try:
        return args.run(args)
    except UserError as error:
        print(f"fairseq-distill {args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
