"""Ports of this machine that tests listen at."""

import socket


def find_free_port() -> int:
    """Return a port of the loopback that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
