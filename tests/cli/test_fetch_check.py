"""`flashtrader fetch --check`, and a disk that is full, read-only or damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from command import Command

SIMULATED = ("fetch", "--source", "simulated", "--symbols", "SIM1,SIM2", "--start", "2025-01-01", "--end", "2025-02-01")


@pytest.fixture
def data_dir(flashtrader: Command, tmp_path: Path) -> Path:
    flashtrader.succeeds(*SIMULATED, "--data-dir", tmp_path / "data")
    return tmp_path / "data"


def damage(data_dir: Path) -> Path:
    [part] = data_dir.glob("simulated/SIM1/60/bars-*.parquet")
    part.write_bytes(part.read_bytes().replace(b"PAR1", b"par1", 1))
    return part


def test_everything_is_checked(flashtrader: Command, data_dir: Path) -> None:
    outcome = flashtrader.succeeds("fetch", "--check", "--data-dir", data_dir)
    assert [line.split()[-1] for line in outcome.out.splitlines() if "SIM" in line] == ["whole", "whole"]
    assert outcome.err == ""
    whole = {"parts": 1, "rows": 744, "findings": [], "repair": None}
    assert flashtrader.succeeds("fetch", "--check", "--json", "--data-dir", data_dir).json == {
        "data_dir": str(data_dir),
        "histories": {"SIM1 60 from simulated": whole, "SIM2 60 from simulated": whole},
    }


def test_damage_is_an_error_until_it_is_repaired(flashtrader: Command, data_dir: Path) -> None:
    part = damage(data_dir)
    held = part.read_bytes()
    line = flashtrader.fails(1, "fetch", "--check", "--data-dir", data_dir)
    assert line == (
        f"{part}: damaged (its bytes don't match its checksum); set it aside and fetch its bars again with "
        "`flashtrader fetch --check --repair`"
    )
    assert part.read_bytes() == held
    flashtrader.succeeds("fetch", "--check", "--symbols", "SIM2", "--data-dir", data_dir)
    repaired = flashtrader.succeeds("fetch", "--check", "--repair", "--data-dir", data_dir)
    [row] = [line for line in repaired.out.splitlines() if "SIM1" in line]
    assert row.split(maxsplit=5)[5] == "744   repaired, 744 rows fetched again "
    aside = part.with_name(f"{part.name}.damaged-0")
    assert repaired.err.splitlines() == [f"found: {line}", f"set aside: {aside}"]
    assert aside.read_bytes() == held
    flashtrader.succeeds("fetch", "--check", "--data-dir", data_dir)


def test_what_can_not_be_read_is_said_and_left_where_it_is(flashtrader: Command, data_dir: Path) -> None:
    """A directory is a file that even root can't read."""
    [part] = data_dir.glob("simulated/SIM1/60/bars-*.parquet")
    part.unlink()
    part.mkdir()
    line = f"{part}: can't be read (Is a directory); check the disk and the permissions"
    assert flashtrader.fails(1, "fetch", "--check", "--data-dir", data_dir) == line
    outcome = flashtrader("fetch", "--check", "--repair", "--data-dir", data_dir)
    assert (outcome.exit_code, outcome.err.splitlines()) == (1, [f"found: {line}", f"error: {line}"])
    assert [path.name for path in part.parent.glob("*.*") if "bars" in path.name] == [part.name]


def test_ledgers_that_are_all_damaged_are_repaired_at_once(flashtrader: Command, data_dir: Path) -> None:
    for path in data_dir.glob("simulated/*/60/ledger.json"):
        path.write_text("{}")
    assert "error" not in flashtrader.succeeds("fetch", "--check", "--repair", "--data-dir", data_dir).err
    flashtrader.succeeds("fetch", "--check", "--data-dir", data_dir)


def test_rows_of_files_are_repaired_once_the_files_are_named(flashtrader: Command, tmp_path: Path) -> None:
    bars = tmp_path / "BTCUSDT-60.csv"
    rows = [f"{1_600_002_000_000 + 3_600_000 * row},10,12,9,11,5" for row in range(30)]
    bars.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]))
    data_dir = ("--data-dir", tmp_path / "data")
    flashtrader.succeeds("fetch", "--source", "file", "--symbols", "BTCUSDT", "--path", bars, *data_dir)
    [part] = (tmp_path / "data").rglob("bars-*.parquet")
    part.write_bytes(b"")
    outcome = flashtrader("fetch", "--check", "--repair", *data_dir)
    left = "error: BTCUSDT 60 from file: left as it is; say with --path which files its rows come from"
    assert (outcome.exit_code, outcome.err.splitlines()[1:]) == (1, [left])
    assert part.read_bytes() == b""
    repaired = flashtrader.succeeds("fetch", "--check", "--repair", "--path", bars, "--json", *data_dir).json
    assert repaired["histories"]["BTCUSDT 60 from file"]["repair"]["fetched"] == 30


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ([], 2, "--symbols: name each market once, separated by commas"),
        (["--symbols", "A", "--repair"], 2, "--repair goes with --check"),
        (["--check", "--start", "2024-01-01"], 2, "--start does not go with --check"),
        (["--check", "--base-url", "http://x"], 2, "--base-url goes with --repair: a check asks no source"),
        (["--check"], 1, "{data}: nothing of this is stored; `flashtrader fetch` without --check gets it"),
        (["--check", "--symbols", "A,A"], 2, "--symbols A,A: name each market once, separated by commas"),
    ],
)
def test_a_wrong_request_is_one_line(
    flashtrader: Command, tmp_path: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    line = flashtrader.fails(exit_code, "fetch", *arguments, "--data-dir", tmp_path / "data")
    assert line == message.format(data=tmp_path / "data")


DISK = """
import subprocess, sys
from pathlib import Path
from flashtrader.cli import main

disk = Path(sys.argv[1])

def flashtrader(*arguments):
    sys.argv = ["flashtrader", "fetch", *arguments, "--data-dir", str(disk / "data")]
    try:
        main()
    except SystemExit as ended:
        print(ended.code or 0, flush=True)

SIMULATED = ("--source", "simulated", "--symbols", "SIM1", "--json", "--end")
flashtrader(*SIMULATED, "2014-01-01")
flashtrader(*SIMULATED, "2025-01-01")
flashtrader("--check", "--json")
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
flashtrader(*SIMULATED, "2025-01-01")
flashtrader("--check", "--json")
subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
flashtrader(*SIMULATED, "2025-01-01")
flashtrader("--check", "--json")
"""


def test_a_full_and_a_read_only_disk_lose_nothing(tmp_path: Path) -> None:
    """Real ones: a small file system in memory, in name spaces of its own."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no name spaces for a file system of one's own")
    command = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$1"'
    shell = ["unshare", "-rm", "sh", "-c", command, "sh", str(tmp_path), sys.executable, DISK]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = [line for line in done.stdout.splitlines() if line in ("0", "1", "2")]
    assert codes == ["0", "1", "0", "1", "0", "0", "0"]
    directory = tmp_path / "data" / "simulated" / "SIM1" / "60"
    assert done.stderr.splitlines() == [
        f"error: {directory}: can't be written (No space left on device); what is stored is unharmed",
        f"error: {directory}: can't be written (Read-only file system); what is stored is unharmed",
    ]
    told = [line.strip() for line in done.stdout.splitlines() if '"rows": ' in line]
    rows = [int(line.removeprefix('"rows": ').rstrip(",")) for line in told]
    first, full, checked, read_only, checked_again, whole, checked_whole = rows
    assert first <= full == checked == read_only == checked_again < whole == checked_whole
