"""What is installed without the checkout: hatch packs what lies in the package and git does not ignore."""

import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flashtrader"


def test_a_wheel_holds_every_file_of_the_package() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert built == {"targets": {"wheel": {"packages": ["flashtrader"]}}}
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "flashtrader")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    there = {path.relative_to(ROOT).as_posix() for path in files}
    assert {"flashtrader/py.typed", "flashtrader/report/page.css", "flashtrader/report/page.js"} <= there
    assert there <= set(listed)


def test_the_package_reads_nothing_beside_itself() -> None:
    """Only the checks of a GPU run the checkout's tests, and a manifest asks whether there is one."""
    named = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "__file__" in path.read_text()}
    assert named == {"benchmarks/gpu.py", "training/manifest.py"}
