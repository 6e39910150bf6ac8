"""The packages that ``uv build`` makes have all that is needed once they are installed, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import need

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = {"clients/js/client.min.js": "gateway/pages/client.min.js", "clients/js/job-progress.js": "gateway/pages/job-progress.js"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packages, made without the network, of what ``uv run`` has fetched to build them."""
    uv = shutil.which("uv")
    need(uv, "uv: pip install uv")
    folder = tmp_path_factory.mktemp("built")
    network = [] if os.environ.get("CI") else ["--offline"]
    made = subprocess.run(
        [uv or "uv", "build", "--quiet", "--all-packages", *network, "--out-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    need("network was disabled" not in made.stderr, "hatchling in the cache of uv: uv build --all-packages --out-dir /tmp/built")
    assert made.returncode == 0, made.stderr
    return folder


def wheel(built: Path, name: str) -> tuple[set[str], Message]:
    """The files of a wheel, and its metadata."""
    with zipfile.ZipFile(next(built.glob(f"{name}-*.whl"))) as archive:
        files = set(archive.namelist())
        metadata = next(file for file in files if file.endswith(".dist-info/METADATA"))
        return files, Parser().parsestr(archive.read(metadata).decode())


def source(built: Path, name: str) -> set[str]:
    """The files of a source distribution."""
    with tarfile.open(next(built.glob(f"{name}-*.tar.gz"))) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def files_of(folder: Path) -> set[str]:
    """The files of a package in the checkout."""
    return {str(path.relative_to(folder.parent)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    ("name", "folder", "others"),
    [
        ("notify_gateway", ROOT / "gateway", set(OUTSIDE.values())),
        ("notify_gateway_client", ROOT / "clients" / "python" / "notify_client", set()),
    ],
)
def test_a_wheel_has_the_files_of_its_package_and_no_others(built: Path, name: str, folder: Path, others: set[str]) -> None:
    files, metadata = wheel(built, name)

    assert {file for file in files if ".dist-info/" not in file} == files_of(folder) | others
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.11")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["Summary"]


def test_the_source_distribution_has_the_whole_checkout(built: Path) -> None:
    git = shutil.which("git")
    listed = subprocess.run([git or "false", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    need(listed.returncode == 0, "git, and a clone of your own: apt-get install git")

    assert {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()} - source(built, "notify_gateway") == set()


def test_the_source_distribution_of_the_client_has_no_tests_that_could_not_run_there(built: Path) -> None:
    files = source(built, "notify_gateway_client")

    assert files_of(ROOT / "clients" / "python" / "notify_client") < files
    assert not [name for name in files if "tests" in name.split("/")]  # they need the gateway and the tests of the checkout
