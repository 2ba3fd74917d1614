"""The playground in a real browser: bars for each branch, two languages, and what a user wrote shown as text. Skipped where there is no Chromium."""

import shutil
from pathlib import Path

import pytest

from tests.quality.test_bounds import INSIDE, OUTSIDE, rows
from trunkline.quality.bounds import bound
from trunkline.serving.api.page import content_policy
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings

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


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_playground_says_what_is_out_of_scope(folders, page, tmp_path: Path):
    """Beside the bars of a branch that has bounds and of no other, in the language that is chosen, also of what was answered before."""
    folder = shutil.copytree(folders["intent"], tmp_path / "intent")
    bound(folder, rows(400))
    page.set_default_timeout(120_000)
    with serving([folder, folders["mood"]], ServeSettings(port=0, runtime="torch", drain_seconds=5.0, threads=1)) as address:
        page.goto(address)
        page.wait_for_selector("#branches input")
        found = {}
        for text in (INSIDE[0], OUTSIDE[0]):
            page.fill("#text", text)
            with page.expect_response("**/v1/predict") as reply:
                page.click("#ask")
            page.wait_for_selector("#ask:not([disabled])")
            assert page.locator("article").count() == 2
            said = reply.value.json()["answers"][0]
            (found[text],) = page.locator("article .scope").all_inner_texts()  # none of the branch without bounds
            assert f"{said['intent']['distance']:.2f}" in found[text]
            assert (page.locator("article .outside").count() == 1) is said["intent"]["out_of_scope"] is (text in OUTSIDE)
        assert found[INSIDE[0]].startswith("In scope: ")
        assert found[OUTSIDE[0]].startswith("Out of scope: ")
        page.screenshot(path=str(tmp_path / "scope-en.png"), full_page=True)
        page.click("#language")
        assert page.inner_text("article .outside").startswith("超出训练范围：")
        page.fill("#text", INSIDE[0])
        page.click("#ask")
        page.wait_for_selector("#ask:not([disabled])")
        assert page.inner_text("article .scope").startswith("在训练范围内：")
        page.screenshot(path=str(tmp_path / "scope-zh.png"), full_page=True)


def test_the_policy_lets_the_page_alone_run(client):
    """No unsafe-inline, no eval: script and style are known by their sums."""
    _, headers, page = client("GET", "/")
    policy = headers["content-security-policy"]
    assert policy == content_policy(page.decode())
    assert "unsafe" not in policy
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    assert b"https://" not in page
    assert b"innerHTML" not in page
