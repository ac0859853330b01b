"""A server of WebSockets that says everything once more. It says its port, and how each WebSocket began and ended.

    ws_server.py [CERTIFICATE KEY]
"""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


def say(*words):
    print(*words, flush=True)


def choose(socket, offered):
    return "first" if "first" in offered else None


async def talk(socket):
    extensions = ",".join(extension.name for extension in socket.protocol.extensions) or "-"
    say("open", socket.request.path, socket.subprotocol or "-", extensions, socket.request.headers.get("X-Consumer-Id", "-"))
    try:
        async for message in socket:
            if message == "close":
                await socket.close(4001, "as you wish")
            elif message == "ping":
                await (await socket.ping(b"are you there"))
                await socket.send("there you are")
            elif isinstance(message, str) and message.startswith("large "):
                await socket.send(b"x" * int(message.split()[1]))
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    finally:
        say("closed", socket.close_code, socket.close_reason or "-")


async def main():
    context = None
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    options = {"max_size": None, "ping_interval": None, "select_subprotocol": choose, "close_timeout": 5}
    async with serve(talk, "127.0.0.1", 0, ssl=context, **options) as server:
        say("port", server.sockets[0].getsockname()[1])
        # Until whoever started it goes away.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
