"""The system's Chromium, driven by playwright, for the tests of pages."""

import base64
import shutil

import pytest
from playwright.sync_api import sync_playwright

FLAGS = (
    "--no-sandbox",  # which the tests' user, root in a container, cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP attacker.example 127.0.0.1",
)
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 120_000
"""Milliseconds: the machine may be busy."""

DROP = """([zone, photos]) => {
  const transfer = new DataTransfer();
  for (const [name, text] of photos) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { bubbles: true, dataTransfer: transfer });
    zone.dispatchEvent(event);
  }
}"""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, or a skip that says how to get one."""
    found = [path for name in PROGRAMS if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found[0], args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """`visit(address, **options)`: the page there, which must say no error.

    Nor may it ask for anything from elsewhere.
    """
    said, opened = [], []

    def visit(address, **options):
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text))
        own = (address, "data:", "blob:")
        page.on(
            "request",
            lambda one: said.append(one.url) if not one.url.startswith(own) else None,
        )
        page.goto(address)
        opened.append(context)
        return page

    yield visit
    for context in opened:
        context.close()
    # Of a request that is refused Chromium itself says so.
    assert [line for line in said if "Failed to load resource" not in line] == []


def drop(page, *paths):
    """Drops files on the page, as a mouse would."""
    photos = [
        [path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths
    ]
    page.evaluate(DROP, [page.locator("#zone").element_handle(), photos])


def answered(page, count):
    """The cards on the page, once so many are there and nothing goes on."""
    cards = page.locator("#answers section")
    cards.nth(count - 1).wait_for()
    page.locator("#busy").wait_for(state="hidden")
    assert cards.count() == count
    return cards


def painted(page):
    """Waits until what has changed is laid out and drawn."""
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => setTimeout(go)))"
    )


def fits(page):
    """Whether nothing sticks out at the side."""
    return page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
