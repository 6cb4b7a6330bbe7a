"""The page's files: read once, served from memory, each with what a browser may do with it.

The policy lets the page load its own files and talk to its own origin, and nothing else: no script or style within the
text, nothing from elsewhere, no frame around it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

_FILES = Path(__file__).parent / "static"
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and answered with 304: a new version is seen at once
}


def page_routes() -> list[web.RouteDef]:
    """Return a route for each file. Raises: OSError -> a file of the package cannot be read."""
    routes = []
    for path in sorted(_FILES.rglob("*")):
        if path.suffix in _KINDS:
            name = path.relative_to(_FILES).as_posix()
            where = "/" if name == "index.html" else f"/page/{name}"
            routes.append(web.get(where, _serve(path.read_bytes(), _KINDS[path.suffix])))
    return routes


def _serve(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    tag = hashlib.sha256(body).hexdigest()[:32]

    async def answer(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(found.value == tag for found in known):
            return web.Response(status=304, headers={**HEADERS, "ETag": f'"{tag}"'})
        headers = {**HEADERS, "ETag": f'"{tag}"'}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return answer
