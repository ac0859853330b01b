"""A WebSocket over HTTP/2 (RFC 8441), with libraries that others wrote: h2, wsproto, websockets.

websocket_over_http2.py serve               a server of HTTP/1.1 that says everything once more; prints its port
websocket_over_http2.py talk PORT [N: V]..  a client of HTTP/2 with these headers; prints what it was told
"""

import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
import wsproto.connection
import wsproto.events


def serve():
    import websockets.sync.server

    def echo(connection):
        if connection.request.headers.get("x-say"):
            connection.send(connection.request.headers["x-say"])
        for message in connection:
            if message == "end it":
                connection.close(4000, "as you wish")
                return
            connection.send(message)

    def select(connection, offered):
        return "chat" if "chat" in offered else None

    with websockets.sync.server.serve(
        echo, "127.0.0.1", 0, select_subprotocol=select, max_size=None, compression=None
    ) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()


class Talk:
    def __init__(self, port, headers):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http2.initiate_connection()
        self.websocket = wsproto.connection.Connection(wsproto.connection.ConnectionType.CLIENT)
        self.events = []
        self.flush()
        while self.http2.remote_settings.enable_connect_protocol != 1:
            self.read()
        self.stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(
            self.stream,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/chat"),
                (":authority", "test"),
                ("sec-websocket-version", "13"),
                *headers,
            ],
        )
        self.flush()

    def flush(self):
        self.socket.sendall(self.http2.data_to_send())

    def read(self):
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the connection is closed")
        for event in self.http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if getattr(event, "stream_id", None) == getattr(self, "stream", 0):
                self.events.append(event)
        self.flush()

    def next(self, kind):
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind):
                    return event
            self.read()

    def send(self, event):
        data = self.websocket.send(event)
        while data:
            room = min(
                self.http2.local_flow_control_window(self.stream), self.http2.max_outbound_frame_size, len(data)
            )
            if room == 0:
                self.read()
                continue
            self.http2.send_data(self.stream, data[:room])
            data = data[room:]
            self.flush()

    def hear(self):
        """A whole message, or the event that ends it all."""
        whole = None
        while True:
            for event in self.websocket.events():
                if not isinstance(event, wsproto.events.Message):
                    return event
                whole = event.data if whole is None else whole + event.data
                if event.message_finished:
                    return whole
            event = self.next((h2.events.DataReceived, h2.events.StreamEnded, h2.events.StreamReset))
            if not isinstance(event, h2.events.DataReceived):
                return event
            self.websocket.receive_data(event.data)


def talk(port, headers):
    client = Talk(port, headers)
    answer = dict(client.next(h2.events.ResponseReceived).headers)
    print("status", answer[b":status"].decode())
    print("protocol", answer.get(b"sec-websocket-protocol", b"-").decode())
    handshake = [b"sec-websocket-accept", b"upgrade", b"connection"]
    print("leftovers", [name.decode() for name in handshake if name in answer])
    if answer[b":status"] != b"200":
        return
    if any(name == "x-say" for name, _ in headers):
        print("first", client.hear())
    for number in range(20):
        client.send(wsproto.events.TextMessage(data=f"message {number}"))
        assert client.hear() == f"message {number}"
    large = bytes(range(256)) * 4096
    client.send(wsproto.events.BytesMessage(data=large))
    print("large", bytes(client.hear()) == large)
    client.send(wsproto.events.Ping(payload=b"there?"))
    print("ping", type(client.hear()).__name__)
    client.send(wsproto.events.TextMessage(data="end it"))
    end = client.hear()
    print("close", end.code, end.reason)
    client.send(end.response())
    print("end", type(client.next((h2.events.StreamEnded, h2.events.StreamReset))).__name__)


if sys.argv[1] == "serve":
    serve()
else:
    talk(int(sys.argv[2]), [tuple(header.lower().split(": ", 1)) for header in sys.argv[3:]])
