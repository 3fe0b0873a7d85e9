"""Runs a command without a network and records DNS queries: `offline.py FILE RESOLV_CONF COMMAND…`.

Start it in network and mount namespaces of its own (`unshare --net --mount`). The loopback interface is up, a DNS
server on 127.0.0.1 answers each question with NXDOMAIN, and FILE gets the names that were asked for, one a line.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_HEADER_BYTES = 12


def set_loopback_up() -> None:
    """Set the loopback interface up, as `ip link set lo up` does."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def serve(server: socket.socket, questions: Path) -> None:
    """Write the name of each question to a file, and answer that it does not exist."""
    while True:
        packet, client = server.recvfrom(2000)
        labels, at = [], _HEADER_BYTES
        while packet[at]:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
            at += packet[at] + 1
        with questions.open("a", encoding="utf-8") as stream:
            stream.write(".".join(labels) + "\n")
        answer = packet[:2] + b"\x81\x83" + packet[4:6] + bytes(6) + packet[_HEADER_BYTES:]
        server.sendto(answer, client)


if __name__ == "__main__":
    questions, resolv_conf = map(Path, sys.argv[1:3])
    set_loopback_up()
    resolv_conf.write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", str(resolv_conf), "/etc/resolv.conf"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        threading.Thread(target=serve, args=(server, questions), daemon=True).start()
        sys.exit(subprocess.run(sys.argv[3:], check=False).returncode)
