"""Python commands that start at once: forked from one process that has imported torch and fairseq already.

An example runs a dozen commands, and importing takes most of their time. `WarmCommands` makes stand-ins to put on PATH,
which hand arguments, environment, working folder and streams to that process. It forks, and the child does what the
command itself does.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Type

COMMANDS = {
    "fairseq-hydra-train": ("fairseq_cli.hydra_train", "cli_main"),
    "fairseq-validate": ("fairseq_cli.validate", "cli_main"),
    "fairseq-distill": ("fairseq_distill.cli.main", "main"),
    "python": None,  # a script, or whatever else Python takes
}
CLIENT = """#!{python} -IS
import json, os, socket, sys
if {command!r} == "python" and not "".join(sys.argv[1:2]).endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
with server.makefile("rwb") as file:
    request = dict(command={command!r}, arguments=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
    file.write(json.dumps(request).encode() + b"\\n")
    file.flush()
    status = int(file.readline() or 1)
sys.exit(status)
"""


class WarmCommands:
    """Context: `folder`, made there, holds the stand-ins while it lasts.

    Args:
        folder: to make, with a short path: it holds a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "WarmCommands":
        self.folder.mkdir()
        address = self.folder / "socket"
        for command in COMMANDS:
            script = self.folder / command
            script.write_text(CLIENT.format(python=sys.executable, address=str(address), command=command))
            script.chmod(0o755)
        self.server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE)
        assert self.server.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.server.terminate()
        self.server.wait()


def serve(address: str) -> None:
    """Import what all commands import, then fork for every request, for ever."""
    for name in ("fairseq_cli.hydra_train", "fairseq_cli.validate", "scipy.cluster.hierarchy", "sklearn", "torchaudio"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                answer(connection)
            connection.close()


def reap(*_: object) -> None:
    """Take leave of children that have ended; their status went to the client already."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(connection: socket.socket) -> None:
    """Run what one client asks for, and tell it the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    for stream, own in zip(streams, (0, 1, 2)):
        os.dup2(stream, own)
        os.close(stream)
    file = connection.makefile("rwb")
    request = json.loads(file.readline())
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    status = 1
    try:
        status = run_command(request["command"], request["arguments"])
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        file.write(f"{status or 0}\n".encode())
        file.flush()
        os._exit(0)


def run_command(command: str, arguments: List[str]) -> Optional[int]:
    """Do what the command does in a process of its own; returns its exit status, None = 0."""
    if command == "python":
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    sys.argv = [command, *arguments]
    del sys.path[0]
    module, function = COMMANDS[command]
    return getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    serve(sys.argv[1])
