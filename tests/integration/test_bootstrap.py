"""`scripts/bootstrap.sh`, run as a newcomer would, without a network: it installs, recovers, and says what to do."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
TOOLS = "awk cat cksum df dirname env grep ln make mkdir readlink rm sh touch uname"
"""All that the script needs besides a Python, so that no Python of this machine is found by chance."""

NAMES = ("first", "second")


class Checkout:
    """A folder with what the script reads, requirements of two tiny packages, and an environment of its own."""

    def __init__(self, folder: Path, programs: Path, wheels: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.wheels = wheels
        self.env = {
            "PATH": f"{programs}",
            "HOME": str(folder.parent),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": wheels.as_uri(),
        }
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/bootstrap.sh", folder / "scripts")
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "pyproject.toml").touch()
        (folder / "cli").mkdir()
        (folder / "cli/__main__.py").write_text("import sys; print('ran with', *sys.argv[1:])")
        requirements = [f"{name}==1.0 --hash=sha256:{digest(build_wheel(wheels, name))}\n" for name in NAMES]
        for file in ("requirements.txt", "requirements-dev.txt"):
            (folder / file).write_text("".join(requirements))

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command or ("sh", "scripts/bootstrap.sh", "run"),
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            # A shell's background job, and what it starts, ignores the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads here
        )

    def run(self, *command: str, **env: str) -> tuple[int, str, str]:
        """The exit status, and what was written to standard output and standard error."""
        process = self.start(*command, **env)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def install(self) -> str:
        status, output, errors = self.run()
        assert (status, errors) == (0, "")
        assert (self.folder / ".venv/installed-run").exists()
        return output

    def failure(self, **env: str) -> str:
        """The one line of a run that must fail."""
        status, _, errors = self.run(**env)
        assert status == 1
        assert errors.count("\n") == 1, errors
        assert not (self.folder / ".venv.lock").is_symlink()
        return errors

    def add_program(self, name: str, script: str) -> None:
        (self.programs / name).unlink(missing_ok=True)
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)


def build_wheel(folder: Path, name: str, content: str = "") -> Path:
    """A package with one empty module."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def bare(tmp_path: Path) -> Checkout:
    """On a machine without any Python."""
    programs, wheels = tmp_path / "bin", tmp_path / "wheels"
    programs.mkdir()
    wheels.mkdir()
    for tool in TOOLS.split():
        (programs / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    return Checkout(tmp_path / "a 'new' \"コピー\" $HOME", programs, wheels)


@pytest.fixture
def checkout(bare: Checkout) -> Checkout:
    """On a machine with the Python that runs the tests, as `python3`."""
    (bare.programs / "python3").symlink_to(PYTHON)
    return bare


@pytest.fixture
def quick(checkout: Checkout, tmp_path: Path) -> Checkout:
    """With a pip that is done at once."""
    pip = tmp_path / "quick" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text("print('Collecting first==1.0')")
    checkout.env["PYTHONPATH"] = str(pip.parent)
    return checkout


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    """A package index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


def test_installs_once_whatever_the_folder_is_called(checkout: Checkout) -> None:
    assert "2/2 " in checkout.install()
    assert checkout.install() == ""
    python = checkout.folder / ".venv/bin/python"
    subprocess.run([python, "-P", "-c", "import first, second, cli"], check=True)


def test_command_runs_from_everywhere(quick: Checkout) -> None:
    quick.install()
    command = str(quick.folder / ".venv/bin/piropiro")
    assert (
        subprocess.run([command, "up"], cwd="/", capture_output=True, text=True, check=True).stdout == "ran with up\n"
    )


def test_changed_requirements_are_installed(checkout: Checkout) -> None:
    checkout.install()
    wheel = build_wheel(checkout.wheels, "third")
    with (checkout.folder / "requirements.txt").open("a") as requirements:
        requirements.write(f"third==1.0 --hash=sha256:{digest(wheel)}\n")
    output = checkout.install()
    assert "third" in output
    assert "creating" not in output


def lose_python(checkout: Checkout) -> None:
    for link in (checkout.folder / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")


def lose_half(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv/bin")


def interrupt(checkout: Checkout) -> None:
    (checkout.folder / ".venv/unfinished").touch()


def move(checkout: Checkout) -> None:
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))


def become_a_file(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    (checkout.folder / ".venv").touch()


def become_a_broken_link(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    (checkout.folder / ".venv").symlink_to("/nowhere")


def test_spoilt_installation_is_made_anew(quick: Checkout) -> None:
    quick.install()
    for spoil in (lose_python, lose_half, interrupt, move, become_a_file, become_a_broken_link):
        spoil(quick)
        assert "creating" in quick.install(), spoil


def test_lock_of_a_process_that_is_gone_is_nobodys(quick: Checkout) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    (quick.folder / ".venv.lock").symlink_to(str(gone.pid))
    quick.install()


def test_second_installation_at_once_is_refused(quick: Checkout) -> None:
    (quick.folder / ".venv.lock").symlink_to(str(os.getpid()))
    status, _, errors = quick.run()
    assert status == 1
    assert f"process {os.getpid()} is installing" in errors


def test_interrupted_download_says_nothing_and_can_be_repeated(checkout: Checkout, silent_index: socket.socket) -> None:
    url = f"http://127.0.0.1:{silent_index.getsockname()[1]}/"
    process = checkout.start(PIP_NO_INDEX="0", PIP_FIND_LINKS="", PIP_INDEX_URL=url)
    connection, _ = silent_index.accept()
    with connection:
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 130
    assert "creating" in checkout.install()


def test_failing_network_is_named(checkout: Checkout) -> None:
    line = checkout.failure(PIP_NO_INDEX="0", PIP_FIND_LINKS="", PIP_INDEX_URL="http://127.0.0.1:1/")
    assert "no network? Try again" in line


def test_changed_package_is_refused(checkout: Checkout) -> None:
    build_wheel(checkout.wheels, "second", "print('changed')")
    assert "cut or changed" in checkout.failure()


def test_package_that_this_system_lacks_is_named(checkout: Checkout) -> None:
    (checkout.wheels / "second-1.0-py3-none-any.whl").unlink()
    assert "there is no second==1.0 for Python 3." in checkout.failure()


def test_index_that_knows_nothing_is_doubted(checkout: Checkout) -> None:
    assert "does not know first==1.0" in checkout.failure(PIP_FIND_LINKS="/nowhere")


def test_other_failure_of_pip_is_quoted(checkout: Checkout) -> None:
    (checkout.folder / "requirements.txt").write_text("not a requirement == at all\n")
    assert "could not install the packages: " in checkout.failure()


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_unsupported_python_is_named(bare: Checkout, version: str) -> None:
    bare.add_program("python3", f'[ "$1" = -V ] && echo "Python {version}"')
    line = bare.failure()
    assert f"python3 is Python {version}: install one" in line
    assert "PYTHON=" in line


@pytest.mark.parametrize("script", [None, "echo 'pyenv: python3: command not found' >&2; exit 127"])
def test_missing_python_is_named(bare: Checkout, script: str | None) -> None:
    if script:
        bare.add_program("python3", script)
    assert "python3 does not run: install one" in bare.failure()


def test_wrong_choice_of_python_is_named(checkout: Checkout) -> None:
    assert "PYTHON=/nowhere/python does not run" in checkout.failure(PYTHON="/nowhere/python")


def test_python_without_venv_names_the_package_to_install(bare: Checkout) -> None:
    bare.add_program("python3", f'case $2 in *ensurepip*) exit 1 ;; esac; exec {PYTHON} "$@"')
    assert f"apt install python3.{sys.version_info.minor}-venv" in bare.failure()


def test_chosen_python_replaces_another(quick: Checkout) -> None:
    quick.install()
    quick.add_program("other", f'[ "$1" != -V ] || {{ echo "Python 3.11.99"; exit; }}; exec {PYTHON} "$@"')
    status, output, _ = quick.run(PYTHON=str(quick.programs / "other"))
    assert status == 0
    assert "creating .venv with Python 3.11.99" in output


def test_full_disk_is_named_before_anything_is_done(quick: Checkout) -> None:
    quick.add_program("df", "echo Filesystem 1024-blocks Used Available; echo tmpfs 9999999 9900000 99999")
    assert "99 MB free" in quick.failure()
    assert not (quick.folder / ".venv").exists()


def test_folder_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkout")
        shutil.copytree(checkout.folder, folder)
        folder.chmod(0o555)
        Path(name).chmod(0o755)
        process = subprocess.run(
            ["/bin/sh", str(folder / "scripts/bootstrap.sh"), "run"],
            capture_output=True,
            text=True,
            check=False,
            user=65534 if os.geteuid() == 0 else None,  # root may write everywhere
        )
        folder.chmod(0o755)
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "cannot write in" in process.stderr


def test_make_needs_no_execute_permission(quick: Checkout) -> None:
    (quick.folder / "scripts/bootstrap.sh").chmod(0o644)
    status, output, errors = quick.run("make", "up", "ARGS=--port 0")
    assert (status, errors) == (0, "")
    assert output.endswith("ran with up --with-parent --port 0\n")
