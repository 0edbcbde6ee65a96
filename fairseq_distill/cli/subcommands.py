"""Commands within a command, assembled from a table of modules."""

import argparse
from types import ModuleType
from typing import Callable, Mapping, Optional


def add_subcommands(
    parser: argparse.ArgumentParser,
    dest: str,
    modules: Mapping[str, ModuleType],
    add_common: Optional[Callable[[argparse.ArgumentParser], None]] = None,
) -> None:
    """Add a parser for each module, which has a docstring, HELP, add_arguments(parser) and, where needed, EPILOG.

    The parsed arguments have the name given as `dest`; `add_common` declares those that all have, before the module's.
    """
    commands = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())
    for name, module in modules.items():
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if add_common is not None:
            add_common(sub)
        module.add_arguments(sub)
