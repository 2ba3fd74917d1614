"""The playground in a real browser: bars for each branch, two languages, and what a user wrote shown as text. Skipped where there is no Chromium."""

import shutil
from pathlib import Path

import pytest

from trunkline.serving.api.page import content_policy

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
ATTACKS = ['<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", '"><svg onload=window.hit=1>', "javascript:window.hit=1"]


@pytest.fixture
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 900, "height": 800}, locale="en-US")
        browser.close()


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_playground(client, page, tmp_path: Path):
    asked, wrong = [], []
    page.set_default_timeout(120_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(client.address)
    page.wait_for_selector("#branches input")
    assert page.locator("#branches input").count() == 3
    page.fill("#text", "please cancel the order, 我要退款 😀 card")
    page.click("#ask")
    page.wait_for_selector("article")
    assert page.locator("article h2").all_inner_texts() == ["intent", "mood", "things"]
    bars = page.locator("article").first.locator("progress")
    assert bars.count() == 5
    shares = [float(text.rstrip("%")) for text in page.locator("article").first.locator(".share").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    page.screenshot(path=str(tmp_path / "playground-en.png"), full_page=True)
    page.click("#language")
    assert page.inner_text("#ask") == "作答"
    for attack in ATTACKS:
        page.fill("#text", attack)
        page.click("#ask")
        page.wait_for_selector("#ask:not([disabled])")  # the page's own policy forbids a function of a test
    assert page.evaluate("window.hit") is None
    page.screenshot(path=str(tmp_path / "playground-zh.png"), full_page=True)
    assert wrong == []
    assert all(url.startswith((client.address, "data:")) for url in asked), "no address but the server's own"


def test_the_policy_lets_the_page_alone_run(client):
    """No unsafe-inline, no eval: script and style are known by their sums."""
    _, headers, page = client("GET", "/")
    policy = headers["content-security-policy"]
    assert policy == content_policy(page.decode())
    assert "unsafe" not in policy
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    assert b"https://" not in page
    assert b"innerHTML" not in page
