"""Lists the messages of errors that no test holds word for word.

    python scripts/message_coverage.py [arguments for pytest]

Runs the suite and keeps the words of every error that it makes, and where. A message is held when a text in the tests
is the whole of it, or the whole but for a path before it; what varies, such as a path, may be a placeholder in the
text. A message inside of a held one is held with it. What is not held is listed; then the exit code is 1.
"""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
_KEPT_IN = "MESSAGE_COVERAGE_DIR"
_SEPARATOR = "\x1f"
_ANY = "\0"
"""What stands in a text for a value that varies."""
_FEWEST_LETTERS = 15
"""Of a text that can be a message: a shorter one would be found in many."""
_VALIDATORS = ROOT / "flashtrader" / "config"
"""Where a ValueError is what the user is told of a config."""


def pytest_configure() -> None:
    """Keep each error that this process makes: this file is a plugin of the suite that it runs."""
    from flashtrader.errors import FlashtraderError

    plain = FlashtraderError.__init__
    kept = Path(os.environ[_KEPT_IN], str(os.getpid()))

    def keep(self: FlashtraderError, message: str) -> None:
        plain(self, message)
        made = sys._getframe(1)
        with suppress(OSError), kept.open("a") as lines:  # some tests let no file be written
            lines.write(_SEPARATOR.join((made.f_code.co_filename, str(made.f_lineno), str(self))) + "\n")

    FlashtraderError.__init__ = keep  # type: ignore[method-assign]


def main() -> int:
    """Run the suite, and tell what its tests leave out."""
    with TemporaryDirectory() as folder:
        ended = _run_suite(Path(folder), sys.argv[1:])
        if ended != 0:
            return ended
        made = _read(Path(folder))
    texts = [_pattern(text) for text in sorted(_texts())]
    held = "\n".join(message for message in set().union(*made.values()) if _is_held(message, texts))
    total = left = 0
    for path, call in _calls():
        lines = range(call.lineno, (call.end_lineno or call.lineno) + 1)
        messages = {message for line in lines for message in made[str(path), line]}
        template = _text(call.args[0]) if call.args and path.is_relative_to(_VALIDATORS) else None
        total += 1
        if any(message in held for message in messages) or (template and re.search(_regex(template), held)):
            continue
        left += 1
        print(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
        for message in sorted(messages)[:1]:
            print(f"    made as: {message}")
    print(f"{total - left} of {total} messages are held word for word")
    return 1 if left else 0


def _run_suite(folder: Path, arguments: list[str]) -> int:
    words = ["pytest", "-p", Path(__file__).stem, "-n", "auto", "--dist", "loadfile", "-q", *arguments]
    environment = os.environ | {_KEPT_IN: str(folder), "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, check=False).returncode


def _read(folder: Path) -> dict[tuple[str, int], set[str]]:
    """Return the messages that were made at each line of each file."""
    made = defaultdict(set)
    for kept in folder.iterdir():
        for line in kept.read_text().splitlines():
            path, number, message = line.split(_SEPARATOR)
            made[path, int(number)].add(message)
    return made


def _calls() -> Iterator[tuple[Path, ast.Call]]:
    """Yield everything that makes an error of which the user is told."""
    shown = re.compile(r"(Config|Data|Unreadable|Source|UnknownSymbol|Backend|Training|Diverged)Error")
    for path in sorted((ROOT / "flashtrader").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if shown.fullmatch(name) or (name == "ValueError" and path.is_relative_to(_VALIDATORS)):
                    yield path, node


def _texts() -> set[str]:
    """Return all texts of the tests."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")]
    found = (_text(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr))
    return {text for text in found if text and len(text.replace(_ANY, "")) >= _FEWEST_LETTERS}


def _text(node: ast.expr) -> str | None:
    """Return an expression's text, or None if it is none; {names} in a text are filled in, so they are values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{[a-z_]+\}", _ANY, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or _ANY for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None and right is None else f"{left or _ANY}{right or _ANY}"
    return None


def _regex(text: str) -> str:
    return ".*?".join(map(re.escape, text.split(_ANY)))


def _pattern(text: str) -> tuple[str, re.Pattern[str]]:
    """Return the longest piece of a text that does not vary, by which it is found fast, and all of it."""
    return max(text.split(_ANY), key=len), re.compile(rf"(\S+: )?{_regex(text)}")


def _is_held(message: str, texts: list[tuple[str, re.Pattern[str]]]) -> bool:
    return any(piece in message and pattern.fullmatch(message) for piece, pattern in texts)


if __name__ == "__main__":
    sys.exit(main())
