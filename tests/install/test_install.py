"""The package as users install it: from a wheel and editable, used from a folder that has nothing to do with it."""

import importlib.util
import os
import shutil
import site
import subprocess
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# fairseq's commands are scripts in the outer environment; these stand for them in the new one.
COMMANDS = {"fairseq-train": "fairseq_cli.train", "fairseq-hydra-train": "fairseq_cli.hydra_train"}


@dataclass
class Install:
    """A virtual environment that sees this one's packages, and the plugin installed in it."""

    python: Path
    package: Path  # the folder that `import fairseq_distill` must come from
    checkout: Path  # the copy of the checkout that was installed
    folder: Path  # where users run it: the project's root if editable, else a folder that has nothing to do with it

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the environment's Python; `stdout` of the result holds both streams."""
        # PYTHONPATH may name the checkout, which would hide what was installed.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["HYDRA_FULL_ERROR"] = "1"  # a whole traceback names the files that were imported
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, name: str) -> str:
        """Path of a script of the environment."""
        return str(self.python.with_name(name))


def make_install(folder: Path, editable: bool) -> Install:
    """Copy the checkout, make an environment, and install the copy in it without the network."""
    checkout = folder / "checkout"
    for part in ("fairseq_distill", "hydra_plugins", "config"):
        shutil.copytree(ROOT / part, checkout / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("setup.py", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / part, checkout)
    venv.create(folder / "venv", symlinks=True)
    site_packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    # A .pth file puts this environment's packages after the new one's own.
    (site_packages / "outer.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    for name, module in COMMANDS.items():
        (folder / "venv" / "bin" / name).write_text(f"from {module} import cli_main\ncli_main()\n")
    (folder / "elsewhere").mkdir()
    install = Install(
        python=folder / "venv" / "bin" / "python",
        package=(checkout if editable else site_packages) / "fairseq_distill",
        checkout=checkout,
        folder=checkout if editable else folder / "elsewhere",
    )
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--use-pep517", "--ignore-installed", "--quiet"]
    result = install.run("-m", "pip", "install", *offline, *(["--editable"] if editable else []), str(checkout))
    assert result.returncode == 0, result.stdout
    return install


@pytest.fixture(scope="module", params=["wheel", "editable"])
def install(request, tmp_path_factory) -> Install:
    """The plugin, installed from a wheel and then as an editable checkout."""
    if importlib.util.find_spec("wheel") is None and int(version("setuptools").split(".")[0]) < 71:
        pytest.skip("no wheel can be built here without the network: neither wheel nor setuptools 71 is installed")
    return make_install(tmp_path_factory.mktemp(request.param), request.param == "editable")


def run_without_teacher(install: Install, *command: str) -> str:
    """The output of a training command that must fail for want of its teacher, on a CPU in full precision."""
    missing = str(install.folder / "no_teacher.pt")
    result = install.run(*(part.replace("MISSING", missing) for part in command))
    assert result.returncode != 0
    assert missing in result.stdout.splitlines()[-1], result.stdout
    assert "'cpu': True" in result.stdout and "'fp16': False" in result.stdout
    return result.stdout


def list_recipes(folder: Path) -> set:
    """Relative paths of the YAML files below a folder, and below links in it."""
    found = [Path(at, name) for at, _, names in os.walk(folder, followlinks=True) for name in names]
    return {path.relative_to(folder).as_posix() for path in found if path.suffix == ".yaml"}


def test_recipes_are_installed(install):
    """`fairseq-distill configs` prints a folder that holds every recipe of the checkout, and overlays below it."""
    result = install.run(install.command("fairseq-distill"), "configs")
    assert result.returncode == 0, result.stdout
    folder = Path(result.stdout.splitlines()[-1])
    editable = install.package.parent == install.checkout
    configs = (install.checkout if editable else install.package) / "config"
    assert folder == configs / "distill"
    recipes = list_recipes(ROOT / "config")
    assert {"distill/distilhubert.yaml", "distill/machine/cpu.yaml", "finetune/machine/cpu.yaml"} <= recipes
    assert list_recipes(configs) == recipes


def test_recipe_finds_the_plugin(install):
    """A recipe (half precision) with an overlay (CPU, full precision) needs no user-dir to be given."""
    recipe = ["--config-dir", str(install.package / "config" / "distill"), "--config-name", "distilhubert"]
    settings = ["+machine=cpu", "task.data=.", "task.teacher=MISSING", "hydra.run.dir=run"]
    output = run_without_teacher(install, install.command("fairseq-hydra-train"), *recipe, *settings)
    assert str(install.package / "tasks" / "speech_distillation.py") in output, output


def test_argparse_command_finds_the_plugin(install):
    """`fairseq-train --user-dir fairseq_distill` in the project's root, or the installed folder from anywhere."""
    user_dir = "fairseq_distill" if (install.folder / "fairseq_distill").exists() else str(install.package)
    names = ["--task", "speech_distillation", "--arch", "speech_student", "--criterion", "speech_distillation"]
    settings = [".", "--user-dir", user_dir, *names, "--teacher", "MISSING", "--batch-size", "1", "--cpu"]
    output = run_without_teacher(install, install.command("fairseq-train"), *settings)
    assert str(install.package / "tasks" / "speech_distillation.py") in output, output


def test_the_version_is_told_once(install):
    """The package's own, which setup.py reads, is what pip and the program say; type checkers find its annotations."""
    installed = install.run("-c", "from importlib.metadata import version; print(version('fairseq-distill'))").stdout
    assert f'__version__ = "{installed.strip()}"\n' in (install.package / "__init__.py").read_text()
    shown = install.run(install.command("fairseq-distill"), "--version")
    assert shown.returncode == 0 and shown.stdout.splitlines()[-1] == f"fairseq-distill {installed.strip()}"
    code = "from importlib.metadata import metadata; print(metadata('fairseq-distill').get_payload())"
    assert "# fairseq-distill" in install.run("-c", code).stdout
    assert (install.package / "py.typed").is_file()


ORDERS = """
import sys
import torch
from omegaconf import OmegaConf

def check(rank, common):
    from fairseq.tasks import TASK_REGISTRY
    from fairseq.utils import import_user_module
    import_user_module(common)
    import fairseq_distill
    assert fairseq_distill.__path__ == [common.user_dir], fairseq_distill.__path__
    assert TASK_REGISTRY["speech_distillation"].__module__ == "fairseq_distill.tasks.speech_distillation"
    print("checked", rank, flush=True)

if __name__ == "__main__":
    common = OmegaConf.create({"user_dir": sys.argv[1]})
    import fairseq_distill
    check("import first", common)
    # As fairseq starts its workers, one for each GPU: there the user-dir comes first.
    torch.multiprocessing.spawn(check, args=(common,), nprocs=1)
"""


def test_orders_of_import(install):
    """A Python import before fairseq's user-dir, and the user-dir before it in a spawned worker."""
    script = install.folder.parent / "orders.py"
    script.write_text(ORDERS)
    result = install.run(str(script), str(install.package))
    assert result.returncode == 0, result.stdout
    assert "checked import first" in result.stdout and "checked 0" in result.stdout


def test_without_fairseq_one_sentence_names_the_extra(install):
    """-S leaves out all installed packages, fairseq too."""
    code = f"import sys; sys.path.insert(0, {str(install.package.parent)!r}); import fairseq_distill"
    result = install.run("-S", "-c", code)
    last = result.stdout.splitlines()[-1]
    assert result.returncode != 0
    assert last.startswith("ImportError: ") and "pip install 'fairseq-distill[fairseq]'" in last


def test_plain_install_brings_no_fairseq(install):
    """Nothing that owns `fairseq/`, and no second opinion on torch or on fairseq's configuration libraries."""
    code = "from importlib.metadata import requires; print(*requires('fairseq-distill'), sep='\\n')"
    requirements = install.run("-c", code).stdout.splitlines()
    plain = " ".join(line.lower() for line in requirements if "extra ==" not in line)
    assert "numpy" in plain and "soundfile" in plain
    for name in ("fairseq", "torch", "hydra", "omegaconf"):
        assert name not in plain
    extra = [line for line in requirements if "extra ==" in line and "fairseq" in line.split("extra")[1]]
    assert any(line.startswith("fairseq==0.12.2") for line in extra)
    assert any(line.startswith("ve-fairseq==0.12.3") for line in extra)
