"""The page in Chromium, offline: a tab that records what goes wrong, as a reader would see it."""

import shutil
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NO_CHROMIUM = "Chromium is not installed and could not be"
FLAGS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]
SCROLL_THROUGH = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 500) {
    window.scrollTo(0, y);
    await new Promise((wake) => setTimeout(wake, 60));
  }
}"""


def page_of_the_tiny_model(folder):
    """Write the page that most tests open; it is only read."""
    import tw_lens as tw
    from tests.models import golden_bridge

    return tw.report(golden_bridge(), folder / "page.html", prompt="w5 w6 w7 w8", layers=[0, 2])


@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Reader:
    """An offline tab that records errors, dialogs and requests."""

    def __init__(self, browser, path, *, address="", **options):
        self.errors, self.requests = [], []
        self.tab = browser.new_context(offline=True, **options).new_page()
        self.tab.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else 0)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri() + address)
        self.tab.wait_for_selector("#findings")

    def all_of(self, selector, of):
        return self.tab.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => {of})")

    def cards(self):
        """The cards that are open beside the map."""
        return self.all_of("#stage > .card", "e.id")
