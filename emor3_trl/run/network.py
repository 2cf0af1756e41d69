"""Whether a server can be reached, asked before a run rather than waited for at its end."""

import socket
import threading
import urllib.request
from urllib.parse import urlsplit

SECONDS = 3.0
PORTS = {"http": 80, "https": 443}


def can_reach(url: str, seconds: float = SECONDS) -> bool:
    """Return whether the host of a URL, or the proxy that leads to it, takes a connection.

    Args:
        url: an address of the server, as https://huggingface.co.
        seconds: how long to try; a name server that does not answer counts as well.
    """
    address = urlsplit(url)
    if not urllib.request.proxy_bypass(address.hostname or ""):
        proxy = urllib.request.getproxies().get(address.scheme)
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else address
    reached = threading.Event()
    place = (address.hostname, address.port or PORTS.get(address.scheme, 443))

    def connect() -> None:
        try:
            socket.create_connection(place, timeout=seconds).close()
            reached.set()
        except OSError:
            pass

    # Looking up a name has no limit of its own
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return reached.is_set()
