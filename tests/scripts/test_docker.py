"""The Dockerfiles, as far as that goes where none can be built: every line's files, pins, shell and user."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "scripts" / "docker").glob("*.Dockerfile"))
Instruction = tuple[str, str]

each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def instructions(path: Path) -> list[Instruction]:
    """Return each instruction's word and what follows it, with continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def rests(path: Path, word: str) -> list[str]:
    return [rest for found, rest in instructions(path) if found == word]


def test_there_is_one_for_a_cpu_and_one_for_a_gpu() -> None:
    assert [path.stem for path in FILES] == ["cpu", "cuda"]


@each
def test_every_base_is_pinned_to_a_whole_version(path: Path) -> None:
    bases = [rest.split()[0] for rest in rests(path, "FROM")]
    assert len(bases) >= 2
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)


@each
def test_what_is_copied_is_there_and_sent_to_the_builder(path: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for rest in rests(path, "COPY") if not rest.startswith("--from")]
    sources = {source for group in copied for source in group}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


@each
def test_a_stage_copies_only_from_stages_before_it(path: Path) -> None:
    seen: set[str] = set()
    for word, rest in instructions(path):
        if word == "FROM" and " AS " in rest:
            seen.add(rest.split(" AS ")[1])
        elif word == "COPY" and rest.startswith("--from="):
            assert rest.removeprefix("--from=").split()[0] in seen


@each
def test_it_runs_as_a_user_who_owns_the_volumes(path: Path) -> None:
    (user,) = rests(path, "USER")
    last_stage = "\n".join(rests(path, "RUN")[-1:])
    assert user == "1000"
    assert f"useradd --uid {user} " in last_stage
    (volumes,) = rests(path, "VOLUME")
    assert all(volume in last_stage for volume in re.findall(r'"([^"]+)"', volumes))
    words = [word for word, _ in instructions(path)]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "RUN")


@each
def test_the_shell_can_read_every_run(path: Path) -> None:
    for command in rests(path, "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)


@each
def test_everything_installed_is_pinned(path: Path) -> None:
    """By a version in the line, or by the constraints that the tests run with."""
    installs = [part.strip() for command in rests(path, "RUN") for part in command.split("&&") if "pip install" in part]
    assert installs
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "scripts" / "constraints.txt").read_text().split()}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for install in installs:
        assert "--constraint scripts/constraints.txt" in install
        assert "--no-cache-dir" in install
        options = re.compile(r"--(constraint|extra-index-url) \S+|--\S+")
        for wanted in options.sub("", install.split("pip install")[1]).split():
            if extra := re.fullmatch(r"'\.\[(\w+)\]'", wanted):
                assert extra[1] in extras
            else:
                assert "==" in wanted or wanted in pinned


def test_the_gpus_pytorch_takes_the_place_of_the_tests_own(tmp_path: Path) -> None:
    """By the very line of the Dockerfile, of which nothing else is changed."""
    cuda = FILES[1]
    edit = next(part for command in rests(cuda, "RUN") for part in command.split("&&") if part.startswith("sed "))
    (version,) = (rest.partition("=")[2] for rest in rests(cuda, "ARG") if rest.startswith("TORCH="))
    (tmp_path / "scripts").mkdir()
    copy = Path(shutil.copy(ROOT / "scripts" / "constraints.txt", tmp_path / "scripts"))
    before = copy.read_text().splitlines()
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, env={"TORCH": version, "PATH": "/usr/bin:/bin"}, check=True)
    after = copy.read_text().splitlines()
    assert [line for line in after if line not in before] == [f"torch=={version}"]
    assert len(after) == len(before)


def test_flash_attention_is_built_here_for_the_named_architectures() -> None:
    cuda = FILES[1]
    assert [rest for rest in rests(cuda, "ARG") if rest.startswith("FLASH_ATTN_CUDA_ARCHS=")]
    assert [rest for rest in rests(cuda, "ARG") if rest.startswith("MAX_JOBS=")]
    (build,) = (rest for rest in rests(cuda, "RUN") if "flash-attn" in rest)
    assert build.startswith("FLASH_ATTENTION_FORCE_BUILD=TRUE ")
    assert "--no-build-isolation" in build


@each
def test_hadolint_finds_nothing(path: Path) -> None:
    subprocess.run([Path(sys.executable).with_name("hadolint"), path], check=True)
