"""Tells systemd how the service stands (`Type=notify`)."""

from __future__ import annotations

import os
import socket


def sd_notify(state: str) -> None:
    """Send `state` ("READY=1", "STOPPING=1") to the service manager; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
