"""A page in headless Chromium: what it came to, what the console said, and what was asked of the network."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--force-device-scale-factor=1", "--virtual-time-budget=4000"),
)


class Opened(NamedTuple):
    """A page once its scripts have run."""

    dom: str
    console: list[str]
    """Lines that scripts wrote and errors that they threw."""
    requests: list[str]
    """Addresses that the page asked for, be it in vain."""


def open_page(page: Path, directory: Path, *flags: str) -> Opened:
    """Open a page in a browser that has never been used, and return its document as it stands then."""
    log = directory / "network.json"
    command = [
        *(CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={directory / 'profile'}", f"--log-net-log={log}"),
        *("--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    # The browser asks for things of its own, such as the time; those have no page for an initiator.
    started = [event["params"] for event in events if "initiator" in event.get("params", {})]
    asked = {each["url"] for each in started if each["initiator"] != "not an origin" and "url" in each}
    return Opened(done.stdout, console, sorted(url for url in asked if not url.startswith(("data:", "blob:"))))


class Drawing(HTMLParser):
    """How many shapes each chart of a page has, and the rows of its tables."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.paths: dict[str, int] = {}
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "figure":
            self.paths[str(attributes["id"])] = 0
        elif tag in ("path", "image") and self.paths:
            self.paths[list(self.paths)[-1]] += 1
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data
