"""A headless Chromium, driven over the pipe of its DevTools protocol, for tests of interactive pages."""

import base64
import json
import os
import shutil
import subprocess
import sys
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AS_3_AND_4 = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(copies[0], 3)
os.dup2(copies[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One browser with one page; leave the ``with`` block to end it.

    Args:
        profile: an empty directory for the browser's profile.
    """

    def __init__(self, profile: str):
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._browser = subprocess.Popen(  # the protocol wants descriptors 3 and 4
            [sys.executable, "-c", AS_3_AND_4, str(read_there), str(write_there), str(PATH), *flags],
            pass_fds=(read_there, write_there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self._read, self._write, self._rest, self._number = read_here, write_here, b"", 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        self._browser.kill()
        self._browser.wait()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._read, 1 << 20)
                assert part, "the browser has ended"
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """Returns the value of an expression in the page, waiting for it where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Loads a page completely."""
        self.send("Page.navigate", url=url)
        waiting = "new Promise(done => { const look = () => location.href !== 'about:blank' && "
        self.run(waiting + "document.readyState === 'complete' ? done() : setTimeout(look, 50); look(); })")

    def until(self, condition: str) -> None:
        """Waits until an expression is true."""
        self.run(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 50); look(); }})"
        )

    def screen(self, width: int, height: int, *, dark: bool) -> None:
        """Sets the page's size and the reader's preference for dark colours."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """Returns the visible page as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
