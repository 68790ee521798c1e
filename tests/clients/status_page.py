"""The status page in headless Chromium, by keyboard and by mouse, in both themes and at two widths.

  status_page.py QUICKSTART_JSON FOLDER

Screenshots are written to FOLDER.  Speaks WebDriver with chromedriver (Debian: chromium, chromium-driver).
"""
import base64
import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
TAB, ENTER = "\ue004", "\ue007"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage", "--no-proxy-server",
]
PATIENCE = 120


class Browser:
    """One session of chromedriver."""

    def __init__(self, profile):
        self.driver = subprocess.Popen(
            [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.session = None
        try:
            self.base = f"http://127.0.0.1:{self.port()}"
            chromium = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": chromium,
                      "goog:loggingPrefs": {"browser": "ALL"}}
            answer = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = answer["sessionId"]
        except BaseException:
            self.close()
            raise

    def port(self):
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                return int(line.rsplit(" ", 1)[1].rstrip(".\n"))
        raise SystemExit("chromedriver ended before it was ready")

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from None

    def send(self, method, path, body=None):
        return self.ask(method, f"/session/{self.session}{path}", body)

    def protocol(self, command, **parameters):
        return self.send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, text, *arguments):
        return self.send("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def open(self, url):
        self.send("POST", "/url", {"url": url})

    def find(self, selector):
        found = self.send("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def text(self, selector):
        return self.send("GET", self.find(selector) + "/text")

    def click(self, selector):
        self.send("POST", self.find(selector) + "/click", {})

    def type(self, selector, text):
        self.send("POST", self.find(selector) + "/value", {"text": text})

    def press(self, key):
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.send("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def tab_to(self, selector):
        """Moves the focus forward with the Tab key until it is on the element."""
        for _ in range(300):
            self.press(TAB)
            if self.script("return document.activeElement.matches(arguments[0])", selector):
                style = "return getComputedStyle(document.activeElement).outlineStyle"
                assert self.script(style) != "none", f"the focus on {selector} cannot be seen"
                return
        raise AssertionError(f"{selector} cannot be reached with the Tab key")

    def until(self, what, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"not reached: {what}"
            time.sleep(0.1)

    def show(self, theme, width):
        self.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.protocol("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                      mobile=width < 600)

    def screenshot(self, file):
        shot = self.protocol("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        if self.session:
            self.send("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def refuse(index):
    """Causes a refusal: a handshake without a certificate."""
    target = urllib.parse.urlsplit(index["token_endpoint"])
    context = ssl.create_default_context(cafile=index["ca_file"])
    with socket.create_connection((target.hostname, target.port), PATIENCE) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=target.hostname) as tls:
                # With TLS 1.3 the client learns of the refusal when it reads.
                assert not tls.recv(1)
        except (ssl.SSLError, ConnectionError):
            pass


def appearance(browser, url, name, folder):
    """The page fits both widths, follows the theme, and reports no error."""
    grounds = set()
    for theme in ("light", "dark"):
        for width in (360, 1280):
            browser.show(theme, width)
            browser.screenshot(folder / f"{name}-{theme}-{width}.png")
            wide = browser.script("""return [...document.querySelectorAll('body *')].filter(e =>
                e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))""")
            assert not wide, f"{url} is wider than {width} pixels: {wide}"
        grounds.add(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2, f"{url}: both themes have the background {grounds}"
    unlabelled = browser.script("""return [...document.querySelectorAll('svg')].filter(e =>
        !e.getAttribute('aria-label')).length""")
    assert unlabelled == 0, "a picture has no text"


def by_keyboard(browser, url, chain):
    browser.open(url)
    browser.press(TAB)
    assert browser.text(":focus") == "Skip to the content", "the first stop is the link past the navigation"
    browser.press(ENTER)
    assert browser.script("return document.activeElement.id") == "main"
    browser.tab_to("summary")
    browser.press(ENTER)
    browser.until("the refusal is open", lambda: browser.script("return !!document.querySelector('details[open]')"))
    browser.tab_to("textarea")
    browser.type("textarea:focus", chain)
    browser.tab_to("button")
    browser.press(ENTER)
    browser.until("the result", lambda: browser.script("return !!document.querySelector('#result .badge')"))
    return browser.text("#result")


def by_mouse(browser, url, chain):
    browser.open(url)
    browser.click("nav a[href='#explain']")
    browser.click("textarea")
    browser.type("textarea", chain)
    browser.click("button")
    browser.until("the result", lambda: browser.script("return !!document.querySelector('#result .badge')"))
    result = browser.text("#result")
    browser.click("nav a[href='/']")
    browser.until("the status", lambda: browser.script("return !!document.querySelector('#traffic')"))
    browser.click("summary")
    assert browser.script("return !!document.querySelector('details[open]')")
    return result


def main():
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if missing:
        print(f"status page: SKIPPED, {' and '.join(missing)} not installed (Debian: chromium, chromium-driver)",
              file=sys.stderr)
        return
    index, folder = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    url = index["admin_url"] + "/"
    device, stranger = (pathlib.Path(file).read_text() for file in (index["devices"][0]["chain"], index["ca_file"]))
    refuse(index)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        try:
            browser.open(url)
            assert browser.text("h1") == "anchorgate"
            appearance(browser, url, "status", folder)
            browser.show("light", 1280)
            assert "accepted" in by_keyboard(browser, url, device)
            result = by_mouse(browser, url, stranger)
            assert "refused" in result and "chain_untrusted" in result, result
            browser.show("dark", 360)
            by_keyboard(browser, url, stranger)
            appearance(browser, browser.script("return location.href"), "explain", folder)
            faults = [entry for entry in browser.send("POST", "/se/log", {"type": "browser"})
                      if "favicon" not in entry["message"]]
            assert not faults, faults
        finally:
            browser.close()
    print("status page: read and operated by keyboard and mouse, in both themes, 360 and 1280 pixels wide")


main()
