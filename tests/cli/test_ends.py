"""How commands end: quietly where their reader has gone, with one line after Ctrl-C, and with nothing half written."""

import os
import signal
import subprocess
import sys

import pytest

from fairseq_distill.cli import main as command_line
from fairseq_distill.cli.main import main
from fairseq_distill.output.files import write_whole
from fairseq_distill.output.interrupt import end_imports_quietly

from ..runs import environment

PROGRAM = "import sys; sys.argv[0] = 'fairseq-distill'; from fairseq_distill.cli.main import main; sys.exit(main())"


def run_into_closed_pipe(*words, stderr=subprocess.PIPE):
    """A command whose reader has gone before it writes: (exit code, what it said on stderr)."""
    reader, writer = os.pipe()
    os.close(reader)
    options = dict(env=environment(), stdout=writer, text=True, timeout=120)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *words], stderr=writer if stderr is None else stderr, **options
    )
    os.close(writer)
    return done.returncode, done.stderr


def test_a_reader_that_has_gone_ends_a_command_quietly():
    code, said = run_into_closed_pipe("configs")
    assert code == 141 and "Traceback" not in said and "BrokenPipe" not in said and "Exception ignored" not in said


def test_also_where_messages_went_the_same_way():
    code, _ = run_into_closed_pipe("info", "/gone.pt", stderr=None)  # its sentence cannot be said
    assert code == 141


class Interrupted:
    """A command that is interrupted while it writes a file and a result."""

    def __init__(self, path):
        self.path = path

    def run(self, args):
        def write(partial):
            partial.write_text("half")
            raise KeyboardInterrupt

        print("a result")
        write_whole(self.path, write)


def test_ctrl_c_is_one_line_and_130_and_leaves_no_half_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line.configs, "run", Interrupted(tmp_path / "out.txt").run)
    assert main(["configs"]) == 130
    shown = capsys.readouterr()
    assert shown.err == "fairseq-distill configs: interrupted; nothing is half written\n" and shown.out == "a result\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["program", "module"])
def test_ctrl_c_while_python_imports_is_no_traceback_either(tmp_path, how):
    """torch and fairseq take seconds to import, and this is when people see that they have mistyped."""
    if how == "module" and sys.version_info < (3, 10):
        pytest.skip("before Python 3.10 nothing says which module a command line names")
    (tmp_path / "fairseq.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")  # imported first
    start = ["-c", PROGRAM] if how == "program" else ["-m", "fairseq_distill"]
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *start, "info", "x.pt"],
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130
    assert done.stderr == "fairseq-distill info: interrupted; nothing is half written\n"


def test_other_programs_keep_their_own_way_to_be_interrupted(monkeypatch):
    def stock(*exception):
        raise AssertionError

    monkeypatch.setattr(sys, "excepthook", stock)
    for argv in (["fairseq-hydra-train"], ["train.py", "fairseq-distill"], [""], []):
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "fairseq_distill"], raising=False)
        end_imports_quietly()
        assert sys.excepthook is stock
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_sentence_of_an_error_is_1(capsys):
    assert main(["info", "/gone.pt"]) == 1
    assert "fairseq-distill info: /gone.pt" in capsys.readouterr().err
