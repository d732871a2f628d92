"""Pages in a headless Chromium, driven over its debugging pipe.

    python tests/pages/browser.py FOLDER PAGE...

writes screenshots of each page at each width, light and dark, and its print into FOLDER, and prints what `faults`, `cut_tables` and
`print_faults` find.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTHS = (1280, 390)  # pixels: a laptop and a telephone
SCHEMES = ("light", "dark")
_PRINT_WIDTH = 680  # pixels between the margins of A4, the narrower one of the usual papers
_HEIGHT = 900
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Puts the ends of the pipes where Chromium expects them, at the descriptors 3 and 4, and becomes Chromium.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
_MEASURE = """({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  height: document.documentElement.scrollHeight,
  images: [...document.images].map(image => [image.alt, image.complete ? image.naturalWidth : 0]),
})"""
_OPEN = "for (const part of document.querySelectorAll('details')) part.open = true"
_CUT = """[...document.querySelectorAll('.table')].filter(each => each.scrollWidth > each.clientWidth)
  .map(each => [each.getAttribute('aria-label'), each.scrollWidth - each.clientWidth])"""


def find_chromium() -> str | None:
    """The program, if it is installed."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class Browser:
    """A running Chromium with one page."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []  # errors of the console, of scripts and of the content security policy
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol, and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next message; complaints are kept."""
        while b"\0" not in self._buffer:
            received = os.read(self._answers, 1 << 20)
            if not received:
                raise RuntimeError("Chromium ended")
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, content = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(content["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and content["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(content["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and content["type"] in {"error", "assert", "warning"}:
            self.complaints.append(str(content["args"]))
        return message

    def open(self, page: Path, width: int, scheme: str = "light") -> dict[str, Any]:
        """Open a page, and measure it: pixels of `overflow` to the right, `height`, and (text, width) of the `images`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self._loaded, self.complaints = False, []
        answer = self.call("Page.navigate", url=page.resolve().as_uri())
        if "errorText" in answer:  # Chromium shows a page of its own, in which there is nothing to find fault with
            raise FileNotFoundError(f"{page}: {answer['errorText']}")
        while not self._loaded:
            self._read()
        measured: dict[str, Any] = self.evaluate(_MEASURE)
        return measured

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def print_page(self) -> bytes:
        """PDF of the page."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])


@contextlib.contextmanager
def start_browser(program: str) -> Iterator[Browser]:
    """Start Chromium, and end it after the block."""
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _LAUNCH,
                str(command_end),
                str(answer_end),
                program,
                *options,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(command_end, answer_end),
            stderr=subprocess.DEVNULL,
        )
        os.close(command_end)
        os.close(answer_end)
        try:
            yield Browser(commands, answers)
        finally:
            os.close(commands)  # Chromium ends with the pipe
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(answers)


def faults(browser: Browser, page: Path, width: int, scheme: str = "light") -> list[str]:
    """What is wrong with a page at a width: complaints of the browser, overflow to the right, images that do not load."""
    measured = browser.open(page, width, scheme)
    found = [f"{width} px: {text}" for text in browser.complaints]
    if measured["overflow"] > 0:
        found.append(f"{width} px: the page is {measured['overflow']} px wider than the window")
    return found + [f"{width} px: image {alt!r} is not shown" for alt, pixels in measured["images"] if not pixels]


def cut_tables(browser: Browser) -> list[str]:
    """Tables of the open page that go on beyond its edge, so that the last columns have to be scrolled to."""
    browser.evaluate(_OPEN)
    return [f"table {name!r} is cut by {pixels} px" for name, pixels in browser.evaluate(_CUT)]


def print_faults(browser: Browser, page: Path) -> list[str]:
    """What is wider than the paper when a page is printed."""
    browser.open(page, _PRINT_WIDTH)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        overflow = browser.evaluate(_MEASURE)["overflow"]
        found = [f"printed: the page is {overflow} px too wide"] if overflow > 0 else []
        return found + [f"printed: {cut}" for cut in cut_tables(browser)]
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def main(folder: Path, pages: list[Path]) -> None:
    """Check pages, and write their screenshots."""
    program = find_chromium()
    if program is None:
        raise SystemExit("Chromium is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    with start_browser(program) as browser:
        for page in pages:
            stem = f"{page.parent.name}_{page.stem}"
            for width, scheme in itertools.product(WIDTHS, SCHEMES):
                found = faults(browser, page, width, scheme)
                found += cut_tables(browser) if width == WIDTHS[0] else []  # on a telephone, tables are scrolled
                name = f"{stem}_{width}_{scheme}.png"
                (folder / name).write_bytes(browser.screenshot())
                sys.stdout.write(f"{page}, {width} px, {scheme}: {'; '.join(found) or 'no fault'} ({name})\n")
            found = print_faults(browser, page)
            (folder / f"{stem}.pdf").write_bytes(browser.print_page())
            sys.stdout.write(f"{page}: {'; '.join(found) or 'printed without fault'} ({stem}.pdf)\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
