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

    Args:
        parser: of the command.
        dest: attribute of the parsed arguments that holds the name given.
        modules: name -> module.
        add_common: declares the arguments that all of them have, before the module's own.
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
