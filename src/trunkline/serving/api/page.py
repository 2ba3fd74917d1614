"""/: the playground, one page without any outside address."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import HTMLResponse


def router() -> APIRouter:
    """The route of the page."""
    made = APIRouter()
    page = resources.files("trunkline.serving.api").joinpath("playground.html").read_text(encoding="utf-8")
    policy = content_policy(page)

    @made.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": policy})

    return made


def content_policy(page: str) -> str:
    """What a browser may do with the page: run its own script and style, known by their sums, and ask this server."""
    script, style = ("'sha256-{}'".format(_sum(re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1])) for tag in ("script", "style"))  # type: ignore[index]
    return f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _sum(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
