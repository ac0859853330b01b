"""Connections of clients that ask once and stay, over HTTP/1.1 and HTTP/2, for as many as a test wants.

They come from as many loopback addresses as their ports need.
"""

import socket
import struct

from .servers import Failure

# Ports of one address; more connections take the next one.
PER_ADDRESS = 20_000
# linux/in.h; Python has no name for it.
IP_BIND_ADDRESS_NO_PORT = 24
SETTINGS, HEADERS, END_STREAM, ACK = 4, 1, 1, 1
# GET / by the static table of HPACK (RFC 7541, A), with `:authority: a`.
GET = {"http": b"\x82\x86\x84\x41\x01a", "https": b"\x82\x87\x84\x41\x01a"}


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def exactly(connection, count):
    """So many bytes."""
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise Failure("the gateway closed a connection")
        data += piece
    return data


def ask_http1(connection):
    """One GET and its whole answer."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            raise Failure(f"the gateway closed a connection: {head!r}")
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
    if not lines[0].startswith(b"http/1.1 200") or length is None:
        raise Failure(f"an answer with a length was expected: {head!r}")
    exactly(connection, length - len(body))


def ask_http2(connection, scheme):
    """One GET on stream 1 and its whole answer."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET[scheme]))
    while True:
        head = exactly(connection, 9)
        length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        payload = exactly(connection, length)
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, ACK, 0))
        if stream == 1 and kind == HEADERS and payload[:1] != b"\x88":
            raise Failure(f"status 200 was expected: {payload!r}")
        if stream == 1 and kind in (0, HEADERS) and flags & END_STREAM:
            return
        if kind in (3, 7):
            raise Failure(f"the gateway ended the stream or the connection: {payload!r}")


def connect(kind, port, number, tls):
    """A connection whose request is answered."""
    raw = socket.socket()
    # The port is chosen when it connects, so that one in TIME_WAIT towards another server is not in the way.
    raw.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    raw.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
    raw.settimeout(30)
    raw.connect(("127.0.0.1", port))
    connection = tls.wrap_socket(raw, server_hostname="a.test") if tls else raw
    if kind.startswith("h2"):
        ask_http2(connection, "https" if tls else "http")
    else:
        ask_http1(connection)
    return connection
