"""A real headless browser, driven over its debugging pipe with only the standard library."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from fcntl import F_DUPFD, fcntl

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

JOIN = "import os, sys; r, w, *c = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execv(c[0], c)"
"""The browser reads from descriptor 3 and writes to 4."""


def find():
    """The browser of this machine, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab. ``complaints`` has every message and every error of the page's console."""

    def __init__(self, profile, width=1300, height=950):
        to_browser, from_browser = os.pipe(), os.pipe()
        ends = [fcntl(end, F_DUPFD, 20) for end in (to_browser[0], from_browser[1])]
        command = [find(), "--headless", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        command += ["--no-first-run", "--disable-dev-shm-usage", f"--window-size={width},{height}", "about:blank"]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOIN, *map(str, ends), *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*ends, to_browser[0], from_browser[1]):
            os.close(end)
        self._write, self._read = to_browser[1], from_browser[0]
        self._buffer, self._number, self._session = b"", 0, None
        self.complaints, self.loaded, self.fetched = [], 0, []
        target = next(entry for entry in self.call("Target.getTargets")["targetInfos"] if entry["type"] == "page")[
            "targetId"
        ]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        os.close(self._write)
        os.close(self._read)
        self.process.terminate()
        self.process.wait(20)

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self, timeout=60):
        deadline = time.monotonic() + timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(message)
        kind, details = event.get("method"), event.get("params", {})
        if kind == "Page.loadEventFired":
            self.loaded += 1
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(str(details["exceptionDetails"])[:500])
        elif kind == "Log.entryAdded":
            self.complaints.append(details["entry"]["text"])
        elif kind == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {details['message']}")
        elif kind == "Network.requestWillBeSent":
            self.fetched.append(details["request"]["url"].partition(":")[0])
        return event

    def open(self, path, fragment=""):
        """Load a file; ``complaints`` and ``fetched`` are emptied first."""
        self._go("about:blank")
        self.complaints, self.fetched = [], []
        self._go(f"file://{path}{fragment}")
        return self

    def _go(self, url):
        before = self.loaded
        self.call("Page.navigate", url=url)
        while self.loaded == before:
            self._next()

    def run(self, script):
        """The value of an expression in the page; waits for a promise."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector):
        return self.run(f"document.querySelector({selector!r}).textContent")

    def point(self, selector, x, y):
        """Move the pointer over an element; x and y are shares of its width and height."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'nearest', behavior: 'instant'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        return place

    def click(self, selector):
        place = self.point(selector, 0.5, 0.5)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key):
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowUp": 38}
        codes |= {"ArrowRight": 39, "ArrowDown": 40, "PageUp": 33, "PageDown": 34}
        same = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **same, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **same)

    def prefer(self, **features):
        """Media features such as ``prefers_color_scheme="dark"``."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def screenshot(self):
        """PNG of the window."""
        return b64decode(self.call("Page.captureScreenshot")["data"])
