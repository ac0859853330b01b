"""A client of gRPC that plays a scene and prints what it saw as one line of JSON.

    grpc_client.py ADDRESS AUTHORITIES|- SCENE [KEY=VALUE...]

A key that begins with `x-`, or is `authorization` or `idempotency-key`, is metadata; others are parameters of the scene.
"""

import json
import sys
import threading
import time

import grpc

address, authorities, scene, *rest = sys.argv[1:]
given = dict(pair.split("=", 1) for pair in rest)
metadata = tuple((key, value) for key, value in given.items() if key.startswith("x-") or key in ("authorization", "idempotency-key"))
options = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
if authorities == "-":
    channel = grpc.insecure_channel(address, options)
else:
    named = [("grpc.ssl_target_name_override", "one.test")]
    credentials = grpc.ssl_channel_credentials(open(authorities, "rb").read())
    channel = grpc.secure_channel(address, credentials, options + named)

path = "/" + given.get("service", "test.Echo") + "/"
unary = channel.unary_unary(path + given.get("method", "Unary"))
collect = channel.stream_unary(path + "Collect")
count = channel.unary_stream(path + "Count")
chat = channel.stream_stream(path + "Chat")
timeout = float(given.get("timeout", 20))
took = time.monotonic()


def text(pairs):
    return {key: value if isinstance(value, str) else value.hex() for key, value in pairs or ()}


def failure(error):
    return {
        "code": error.code().name,
        "details": error.details(),
        "initial": text(error.initial_metadata()),
        "trailing": text(error.trailing_metadata()),
        "took": round(time.monotonic() - took, 2),
    }


def kinds():
    reply, call = unary.with_call(b"hello", metadata=metadata, timeout=timeout)
    talk = []
    turn = threading.Semaphore(1)

    def ask():
        # Each question waits for the answer to the one before: nothing may be kept back on the way.
        for word in (b"one", b"two", b"three"):
            turn.acquire()
            yield word

    for heard in chat(ask(), metadata=metadata, timeout=timeout):
        talk.append(heard.decode())
        turn.release()
    return {
        "unary": reply.decode(),
        "initial": text(call.initial_metadata()).get("x-initial"),
        "trailing": text(call.trailing_metadata()),
        "collect": collect(iter([b"a", b"b", b"c"]), metadata=metadata, timeout=timeout).decode(),
        "count": [piece.decode() for piece in count(b"5", metadata=metadata, timeout=timeout)],
        "chat": talk,
    }


def one():
    try:
        body = b"x" * int(given.get("size", 5))
        reply, call = unary.with_call(body, metadata=metadata, timeout=None if timeout == 0 else timeout)
        return {"code": "OK", "length": len(reply), "same": reply == body, "reply": reply[:64].decode()}
    except grpc.RpcError as error:
        return failure(error)


def stream():
    heard = []
    try:
        for piece in count(given.get("count", "1000000").encode(), metadata=metadata, timeout=timeout):
            heard.append((piece.decode(), round(time.monotonic() - took, 2)))
    except grpc.RpcError as error:
        return failure(error) | {"heard": heard}
    return {"code": "OK", "heard": heard}


def upload():
    """Streams to the server until the call is over."""

    def pieces():
        while True:
            yield b"x"
            time.sleep(0.1)

    try:
        collect(pieces(), metadata=metadata, timeout=timeout)
    except grpc.RpcError as error:
        return failure(error)


def cancel():
    call = count(b"1000000", metadata=metadata + (("x-pause", "0.05"),))
    heard = [next(call).decode() for _ in range(3)]
    call.cancel()
    return {"heard": heard, "code": call.code().name}


def parallel():
    calls = [unary.future(str(i).encode(), metadata=metadata, timeout=60) for i in range(int(given["calls"]))]
    right = sum(call.result() == str(i).encode() for i, call in enumerate(calls))
    return {"right": right, "took": round(time.monotonic() - took, 2)}


print(json.dumps(globals()[scene]()))
