"""What a browser may do with the page of the app: nothing is fetched from, sent to, or framed by another place."""

from typing import Any

# Gradio's own script starts from inside its page and makes functions, so 'unsafe-inline' and 'unsafe-eval' stay. What a
# model says is escaped, and a script that ran all the same could not reach another host.
POLICY = "; ".join([
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "font-src 'self' data:", "media-src 'self' data: blob:", "worker-src 'self' blob:",
    "connect-src 'self' data: blob:", "object-src 'none'", "base-uri 'self'", "form-action 'none'",
    "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class SafeHeaders:
    """Adds the headers to each answer; an ASGI middleware.

    Args:
        app: the application that answers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, with the headers."""

        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name.encode(): value.encode() for name, value in HEADERS.items()}
                others = [(name, value) for name, value in message["headers"] if name.lower() not in names]
                message = {**message, "headers": [*others, *names.items()]}
            await send(message)

        await self.app(scope, receive, send_safely)
