"""A page opened in a headless Chromium, over its DevTools pipe: what it logs, fetches and looks like."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A container's root may use no sandbox, and /dev/shm is small there.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
PATIENCE = 60  # seconds until a browser that says nothing is given up


class Page:
    """One tab. `events` holds what the browser has reported of it so far."""

    def __init__(self, commands: int, replies: int) -> None:
        self.commands, self.replies, self.unread, self.last = commands, replies, b"", 0
        self.events: list[dict] = []
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """Send a command and wait for what it returns."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self.last:
            self.events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Load a file in a window of this many px and wait until it and its pictures are there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[theme])
        self.events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + PATIENCE
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, "the page never finished loading"
            self.events.append(self._next())

    def evaluate(self, expression: str):
        """The value of JavaScript run by the tool, not by the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Everything on the console, of whatever level, and uncaught exceptions."""
        found = []
        for event in self.events:
            if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(event["params"]))
        return found

    def fetched(self) -> list[str]:
        """The addresses that were asked for, but those inside the page."""
        requests = [event["params"]["request"] for event in self.events
                    if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
        return [request["url"] for request in requests if not request["url"].startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict:
        while b"\0" not in self.unread:
            content = os.read(self.replies, 1 << 16)
            assert content, "the browser has ended"
            self.unread += content
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A tab of a fresh browser; the browser ends with the block. `profile`: an empty folder for its files."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # Numbers that cannot be 3 or 4, which the browser expects its ends of the two pipes to have.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser[0], from_browser[1])]
    os.close(to_browser[0])
    os.close(from_browser[1])

    def place_ends() -> None:
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    process = subprocess.Popen(
        [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=place_ends,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        yield Page(to_browser[1], from_browser[0])
    finally:
        process.terminate()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
