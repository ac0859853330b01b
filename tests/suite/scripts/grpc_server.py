"""A server of gRPC: messages are bytes, so no code is generated. It says its port, and what becomes of its calls.

The standard health service says of `test.Echo` what a call with `x-health: NOT_SERVING` said last.

    grpc_server.py [CERTIFICATE KEY | --unavailable]

With `--unavailable`, a unary call ends with that status before anything is sent.
"""

import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

said = threading.Lock()


def say(*words):
    with said:
        print(*words, flush=True)


def begin(context):
    sent = {key: value for key, value in context.invocation_metadata()}
    say("call", sent.get("x-name", "-"), "from", context.peer())
    over = threading.Event()
    context.add_callback(lambda: (over.set(), say("over", sent.get("x-name", "-"))))
    context.send_initial_metadata((("x-initial", "yes"),))
    context.set_trailing_metadata((("x-trailing", "a b%c"), ("x-raw-bin", b"\x00\xff")))
    over.wait(float(sent.get("x-sleep", 0)))
    if "x-fail" in sent:
        context.abort(grpc.StatusCode.NOT_FOUND, "gone: 50% of \u00e9")
    return sent, over


servicer = health.HealthServicer()
servicer.set("test.Echo", health_pb2.HealthCheckResponse.SERVING)


def unary(request, context):
    if "--unavailable" in sys.argv:
        say("call", "refused", "from", context.peer())
        context.abort(grpc.StatusCode.UNAVAILABLE, "not here")
    sent, _ = begin(context)
    if "x-health" in sent:
        servicer.set("test.Echo", health_pb2.HealthCheckResponse.ServingStatus.Value(sent["x-health"]))
    return request


def collect(requests, context):
    begin(context)
    return b",".join(requests)


def count(request, context):
    sent, over = begin(context)
    # A browser's clients send the number as a message of protobuf, and want such messages back.
    number = int(bytes(byte for byte in request if 48 <= byte <= 57))
    for i in range(number):
        text = str(i).encode()
        yield bytes([10, len(text)]) + text if "x-protobuf" in sent else text
        if over.wait(float(sent.get("x-pause", 0))):
            return
    if "x-late-fail" in sent:
        context.abort(grpc.StatusCode.DATA_LOSS, "in the middle")
    over.wait(float(sent.get("x-linger", 0)))


def chat(requests, context):
    begin(context)
    for request in requests:
        yield b"heard " + request


def echo_timeouts(request, context):
    begin(context)
    left = context.time_remaining()
    return b"-" if left is None or left > 1e8 else str(left).encode()


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "TimeLeft": grpc.unary_unary_rpc_method_handler(echo_timeouts),
}
unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=256), options=unlimited)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
if len(sys.argv) > 2:
    certificate, key = (open(path, "rb").read() for path in sys.argv[1:3])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
say("port", port)
# Until whoever started it goes away.
sys.stdin.read()
server.stop(None)
