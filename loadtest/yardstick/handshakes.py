#!/usr/bin/env python3
"""One TLS connection after the other, each for one request: `handshakes.py PORT SECONDS new|resumed PATH SIZE`.

Every connection is verified: TLS 1.3, a session that was resumed (or was not), status 200 and a body of the right size. What comes
out is a line of JSON like that of the wrk profile. It is a program of its own so that it can be pinned to a CPU.
"""

import json
import socket
import ssl
import sys
import time


def context():
    """TLS 1.3 and nothing else, so that a handshake is the same for every proxy."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols(["http/1.1"])
    return made


def exchange(made, port, request, size, session):
    """One connection; gives the session that the server offered, whether one was resumed, and the cipher."""
    raw = socket.create_connection(("127.0.0.1", port), 10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with made.wrap_socket(raw, server_hostname="a.test", session=session) as tls:
        tls.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + size:
            piece = tls.recv(65536)
            if not piece:
                break
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or len(body) != size:
            raise ValueError(f"{head[:200]!r} with {len(body)} bytes")
        return tls.session, tls.session_reused, (tls.version(), tls.cipher()[0])


def main(port, seconds, mode, path, size):
    """Connections for so many seconds."""
    made, resume = context(), mode == "resumed"
    request = f"GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode()
    session = exchange(made, port, request, size, None)[0] if resume else None
    times, wrong, ciphers = [], 0, set()
    began = time.monotonic()
    while (start := time.monotonic()) < began + seconds:
        offered, reused, cipher = exchange(made, port, request, size, session)
        times.append(time.monotonic() - start)
        wrong += reused != resume
        ciphers.add(cipher)
        # A new ticket for each connection, as browsers do it; a server that gives none has its old one used again.
        if resume and offered is not None and offered.has_ticket:
            session = offered
    times.sort()
    print("versions and ciphers:", *(" ".join(cipher) for cipher in sorted(ciphers)))
    print("connections that were resumed and should not be, or the other way around:", wrong)
    print(json.dumps({
        "requests": len(times), "micros": round((time.monotonic() - began) * 1e6), "status": wrong,
        "p50": round(times[len(times) // 2] * 1e6), "p99": round(times[len(times) * 99 // 100] * 1e6), "max": round(times[-1] * 1e6),
        # The one before the clock started cost the proxy as well.
        "uncounted": int(resume),
    }))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
