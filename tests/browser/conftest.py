"""Pages in headless Chromium."""

import pytest
from playwright import sync_api
from support import screens
from support.screens import DESK


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = screens.launched(playwright)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(path, viewport, scheme) loads a file; errors and outside requests
    fail."""
    contexts, errors, requests = [], [], []

    def open_(path, viewport=DESK, scheme="light", init_script=None):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        if init_script:
            page.add_init_script(init_script)
        page.on(
            "console", lambda m: m.type in ("error", "warning") and errors.append(m)
        )
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors, [getattr(e, "text", e) for e in errors]
    inside = ("file:", "data:", "blob:")
    assert requests and not [url for url in requests if not url.startswith(inside)]
