"""The rules of the house: style, types, layers, sizes, and that nothing of one machine got into the tree."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
CACHE = Path("/var/cache/lvagent")
"""What linters remember between runs; outside the tree."""

SKIPPED_FOLDERS = {".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
LARGEST_FILE = 256 * 1024
LONGEST_FUNCTION = 60
LONGEST_MODULE = 400
MEDIAN_FUNCTION = 12

PACKAGE_OF = {
    "apt-cache": "", "apt-get": "", "dpkg-deb": "", "env": "",  # essential in Debian
    "systemctl": "",  # asked only where systemd runs
    "cpio": "cpio", "dnsmasq": "dnsmasq-base", "grub-mkimage": "grub-common", "ip": "iproute2",
    "mke2fs": "e2fsprogs", "mmdebstrap": "mmdebstrap", "modprobe": "kmod", "nft": "nftables", "qemu-img": "qemu-utils",
    "sfdisk": "fdisk", "ssh": "openssh-client", "tar": "", "unshare": "util-linux", "virsh": "libvirt-clients",
    "depmod": "kmod", "debugfs": "e2fsprogs", "conntrack": "conntrack", "bridge": "iproute2",
}  # fmt: skip
"""The package each command comes from that lvagent runs; an empty name: there on every Debian."""


def files() -> list[Path]:
    """All files of the tree that belong to it."""
    found = []
    for folder, folders, names in os.walk(TREE):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found += [Path(folder) / name for name in names if not name.endswith((".pyc", ".egg-info"))]
    return sorted(found)


def modules(*folders: str) -> list[Path]:
    """The Python files below some folders of the tree."""
    return sorted(path for folder in folders for path in (TREE / folder).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a module, by its place, with its length in lines, docstring and comments counted."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{path.relative_to(TREE)}:{node.lineno} {node.name}", lines


def passes(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a linter on the tree; its complaint is the failure."""
    done = subprocess.run(
        argv, cwd=TREE, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.fixture
def cache() -> Iterator[Path]:
    """The linters' folder, for one run at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".house.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE


def test_style(cache: Path) -> None:
    passes(tool("ruff"), "check", "--output-format", "concise", "--cache-dir", str(cache / "ruff"), ".", ".ci")


def test_format(cache: Path) -> None:
    passes(tool("ruff"), "format", "--check", "--cache-dir", str(cache / "ruff"), ".", ".ci")


def test_types(cache: Path) -> None:
    passes(tool("mypy"), "--strict", "--cache-dir", str(cache / "mypy"))


def test_types_of_the_lab(cache: Path) -> None:
    options = ["--strict", "--explicit-package-bases", "--cache-dir", str(cache / "mypy-lab")]
    passes(tool("mypy"), *options, "tests/lab", "tests/house", "tests/e2e/conftest.py", "tests/e2e/test_lab.py")


def test_layers(cache: Path) -> None:
    passes(tool("lint-imports"), "--no-logo", "--cache-dir", str(cache / "importlinter"), env={"PYTHONPATH": str(TREE)})


@pytest.mark.parametrize("script", sorted(path.name for path in (TREE / ".ci").iterdir() if path.suffix == ""))
def test_shell_scripts_parse(script: str) -> None:
    passes("bash", "-n", f".ci/{script}")


def test_make_knows_each_target_of_its_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (TREE / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    told = subprocess.run(["make", "-s", "help"], cwd=TREE, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in told.splitlines()} == set(phony[1].split())


def test_functions_are_short() -> None:
    lengths = dict(pair for path in modules("lvagent") for pair in functions(path))
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION


def test_modules_are_short() -> None:
    lengths = {str(path.relative_to(TREE)): len(path.read_text().splitlines()) for path in modules("lvagent")}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_files_are_small() -> None:
    sizes = {str(path.relative_to(TREE)): path.stat().st_size for path in files()}
    assert {name: size for name, size in sizes.items() if size > LARGEST_FILE} == {}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_mock_library() -> None:
    mocks = ("unittest.mock", "mock", "pytest_mock")
    assert [str(path) for path in modules("lvagent", "tests") if imports(path) & set(mocks)] == []


def test_nothing_is_left_undone_or_skipped() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|importorskip)\b|pytest\.(mark\.)?(skip|xfail)")
    sources = [path for path in files() if path.suffix == ".py" and path != Path(__file__)]
    assert lines_with(marks, sources) == []


def test_every_module_and_public_function_is_documented() -> None:
    missing = [
        f"{path.relative_to(TREE)}: {getattr(node, 'name', 'the module')}"
        for path in modules("lvagent")
        for node in [parsed(path), *public(parsed(path))]
        if ast.get_docstring(node) is None
    ]
    assert missing == []


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes of a module's top level that other modules may use."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """The lines of text files that match, each with its place."""
    found = []
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(TREE)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if pattern.search(line)
        ]
    return found


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    places = re.compile(rf"(?<![\w.])({re.escape(str(TREE))}/|/home/\w)")
    assert lines_with(places, [path for path in files() if path != Path(__file__)]) == []


def test_the_locks_name_no_registry() -> None:
    locks = sorted((TREE / ".ci").glob("*.lock"))
    assert len(locks) == 2
    assert lines_with(re.compile(r"://|^--|^-[fie] "), locks) == []


def test_every_pin_has_a_digest() -> None:
    for lock in (TREE / ".ci").glob("*.lock"):
        pins = re.findall(r"^\S+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*", lock.read_text(), re.MULTILINE)
        assert pins
        assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def templates() -> dict[str, Path]:
    folder = TREE / "templates"
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def uses() -> str:
    """All text in which a template may be named."""
    code = [path.read_text() for path in modules("lvagent")]
    return "\n".join([*code, *(path.read_text() for name, path in templates().items() if name.endswith(".j2"))])


def test_every_template_is_used() -> None:
    text = uses()
    images = {path.stem for path in (TREE / "lvagent/host/images").glob("*.py")}
    unused = [
        name
        for name in templates()
        if name not in text and not (name.startswith("image/") and name.split("/")[1] in images)
    ]
    assert unused == []


def test_every_template_that_is_named_is_there() -> None:
    named = set(re.findall(r"""["']([\w./-]+\.j2)["']""", uses()))
    assert named - templates().keys() == set()


def commands() -> Iterator[tuple[str, str]]:
    """The programs that lvagent starts: first words of the lists given to ``run``, with their places."""
    for path in modules("lvagent"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run" and node.args:
                first = node.args[0].elts[:1] if isinstance(node.args[0], ast.List) else []
                yield from (
                    (str(word.value), f"{path.name}:{node.lineno}") for word in first if isinstance(word, ast.Constant)
                )


def test_setup_installs_what_is_run() -> None:
    setup = re.sub(r"#.*", "", (TREE / ".ci/setup").read_text())
    installed = set(setup.split("PACKAGES=(")[1].split(")")[0].split())
    found = dict(commands())
    assert found
    assert {word: place for word, place in found.items() if word not in PACKAGE_OF} == {}
    assert {word for word in found if PACKAGE_OF[word] and PACKAGE_OF[word] not in installed} == set()


def test_qemu_img_is_started_in_one_place_and_told_every_format() -> None:
    """A format that is not said is guessed from what a guest wrote."""
    lists = [
        (path.name, [word.value for word in node.elts if isinstance(word, ast.Constant)])
        for path in modules("lvagent")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.List) and any(getattr(word, "value", "") == "qemu-img" for word in node.elts)
    ]
    assert [name for name, _ in lists] == ["qemu_img.py"]
    assert {"-f", "-O"} <= set(lists[0][1])
    disk = (TREE / "templates/devices/disk.xml.j2").read_text()
    assert re.findall(r'<driver name="qemu" type="(\w+)"', disk) == ["qcow2"]


def test_ci_runs_what_the_readme_says() -> None:
    readme = (TREE / "README.md").read_text()
    assert "sudo make run" in readme
    assert "sudo make test" in readme
    assert "make test" in (TREE / ".ci/run").read_text()
