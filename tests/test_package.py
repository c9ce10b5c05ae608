"""What is installed, and what starting costs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import drsformer

ROOT = Path(__file__).parents[1]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The built wheel's file names."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_holds_every_file_and_two_packages(wheel):
    sources = [
        *(ROOT / "drsformer_cli").rglob("*"),
        *(ROOT / "models" / "drsformer").rglob("*"),
    ]
    expected = {
        str(path.relative_to(ROOT)).removeprefix("models/")
        for path in sources
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel if ".dist-info/" not in name}
    assert found == expected
    assert {"drsformer/weights/general.pth", "drsformer/weights/general.md", "drsformer/py.typed"} <= found
    assert {name.split("/")[0] for name in found} == {"drsformer", "drsformer_cli"}


SLOW = {
    *("torch", "numpy", "PIL", "cv2", "requests", "av", "pillow_heif", "fastapi", "uvicorn"),
    *("onnx", "onnxscript", "onnxruntime"),
}


def test_help_and_version_import_nothing_slow():
    """In one process, one after the other."""
    commands = [[], *([command] for command in ("derain", "download", "eval", "export", "serve", "train"))]
    said = python(
        "import sys\n"
        "from drsformer_cli.app import main\n"
        f"for arguments in {[['--version'], *([*command, '--help'] for command in commands)]}:\n"
        "    sys.argv = ['drsformer', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert not stop.code, stop.code\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        f"    print('\\nAFTER', arguments, sorted(loaded & {SLOW}))"
    )
    found = re.findall(r"^AFTER .*", said, re.MULTILINE)
    assert len(found) == len(commands) + 1
    assert [line for line in found if not line.endswith("[]")] == []


def test_module_runs():
    answer = subprocess.run(
        [sys.executable, "-m", "drsformer_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"drsformer \d+\.\d+\.\d+\n", answer.stdout)


@pytest.mark.parametrize(("number", "code", "said"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_an_interrupt_while_modules_are_imported_is_one_line(number, code, said):
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'drsformer_cli.commands': os.kill(os.getpid(), {number})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from drsformer_cli.__main__ import run\n"
        "run()"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (answer.returncode, answer.stderr) == (code, f"drsformer: {said}\n")


def test_library_imports_torch_only_when_needed():
    before = "drsformer.PRESETS, drsformer.__version__; print('torch' in sys.modules)"
    after = "drsformer.DRSformer; print('torch' in sys.modules)"
    assert python(f"import sys, drsformer; {before}; {after}") == "False\nTrue\n"


def test_every_public_name_exists():
    assert all(hasattr(drsformer, name) for name in drsformer.__all__)
    assert set(drsformer.__all__) == set(dir(drsformer))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        drsformer.nothing  # noqa: B018


def test_runtime_dependencies_are_these_eight():
    pyproject = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)[1]
    assert re.findall(r'"([\w-]+)', block) == [
        "torch", "typer", "pillow", "opencv-python", "numpy", "rich", "platformdirs", "requests",
    ]  # fmt: skip


def test_models_is_no_package():
    assert not (ROOT / "models" / "__init__.py").exists()
