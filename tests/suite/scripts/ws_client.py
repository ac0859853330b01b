"""A client of WebSockets that plays a scene and prints what it saw as one line of JSON.

    ws_client.py URL AUTHORITIES|- SCENE [NAME=VALUE...]

Names are those of headers, but for `plain=1`, which does not offer compression, and `size`.
"""

import asyncio
import json
import ssl
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

url, authorities, scene, *rest = sys.argv[1:]
given = dict(pair.split("=", 1) for pair in rest)
options = {
    "max_size": None,
    "ping_interval": None,
    "open_timeout": 20,
    "subprotocols": ["first", "third"],
    "compression": None if given.pop("plain", None) else "deflate",
    "proxy": None,
}
size = int(given.pop("size", 0))
if authorities != "-":
    context = ssl.create_default_context(cafile=authorities)
    options |= {"ssl": context, "server_hostname": "one.test"}


async def say(socket, message):
    await socket.send(message)
    return await asyncio.wait_for(socket.recv(), 20)


async def talk(socket):
    data = bytes(range(256)) * 300
    words = "Grüße, " * 5000
    started = time.monotonic()
    await (await socket.ping(b"from the client"))
    seen = {
        "text": await say(socket, "hello") == "hello",
        "long": await say(socket, words) == words,
        "binary": await say(socket, data) == data,
        "empty": await say(socket, "") == "",
        "fragments": await say(socket, ["in ", "three ", "pieces"]),
        "ping": await say(socket, "ping"),
        "subprotocol": socket.subprotocol,
        "extensions": [extension.name for extension in socket.protocol.extensions],
        "took": round(time.monotonic() - started, 2),
    }
    await socket.send("close")
    try:
        await socket.recv()
    except ConnectionClosed as closed:
        seen["close"] = [closed.rcvd.code, closed.rcvd.reason]
    return seen


async def leave(socket):
    await socket.close(4002, "enough")
    return {"code": socket.close_code}


async def until_closed(socket):
    """Says something large, if a size is given, and waits."""
    started = time.monotonic()
    try:
        if size:
            await socket.send(b"x" * size)
        while True:
            heard = await asyncio.wait_for(socket.recv(), 30)
    except ConnectionClosed as closed:
        code = closed.rcvd and [closed.rcvd.code, closed.rcvd.reason]
        return {"close": code, "took": round(time.monotonic() - started, 2)}


async def ask_large(socket):
    try:
        return {"length": len(await say(socket, f"large {size}"))}
    except ConnectionClosed as closed:
        return {"close": closed.rcvd and [closed.rcvd.code, closed.rcvd.reason]}


async def main():
    try:
        async with connect(url, additional_headers=given, **options) as socket:
            return await globals()[scene](socket)
    except InvalidStatus as refused:
        answer = refused.response
        return {"status": answer.status_code, "body": answer.body.decode(), "headers": dict(answer.headers.raw_items())}


print(json.dumps(asyncio.run(main())))
