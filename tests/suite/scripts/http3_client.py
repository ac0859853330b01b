"""A client of HTTP/3 by aioquic: asks as its arguments say, and prints what came back as JSON.

    http3_client.py ADDRESS PORT CA_FILE REQUESTS

REQUESTS is a JSON list of {"method", "path", "headers", "body" (its length), "cancel"}; all are sent at once.
"""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.waiting = {}

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            for answer, done in self.waiting.values():
                answer["terminated"] = event.error_code
                if not done.done():
                    done.set_result(answer)
        elif isinstance(event, StreamReset) and event.stream_id in self.waiting:
            answer, done = self.waiting[event.stream_id]
            answer["reset"] = event.error_code
            if not done.done():
                done.set_result(answer)
        for event in self.http.handle_event(event):
            if event.stream_id not in self.waiting:
                continue
            answer, done = self.waiting[event.stream_id]
            if isinstance(event, HeadersReceived):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                if ":status" in headers:
                    answer["status"] = int(headers.pop(":status"))
                    answer["headers"] = headers
                else:
                    answer["trailers"] = headers
            elif isinstance(event, DataReceived):
                answer["length"] += len(event.data)
                answer["start"] = (answer["start"] + event.data[:200].decode("latin1"))[:400]
            if event.stream_ended and not done.done():
                done.set_result(answer)

    def ask(self, request):
        stream = self._quic.get_next_available_stream_id()
        done = self._loop.create_future()
        answer = {"path": request["path"], "length": 0, "start": ""}
        self.waiting[stream] = (answer, done)
        headers = [(":method", request["method"]), (":scheme", "https"), (":authority", "test"), (":path", request["path"])]
        headers += request.get("headers", {}).items()
        body = request.get("body")
        headers = [(name.encode(), value.encode()) for name, value in headers]
        self.http.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            self.http.send_data(stream, b"x" * body, end_stream=True)
        if request.get("cancel"):
            self._quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        self.transmit()
        return done


async def main():
    address, port, authority, requests = sys.argv[1:]
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=True, server_name="test")
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(authority)
    async with connect(address, int(port), configuration=configuration, create_protocol=Client) as client:
        asked = [client.ask(request) for request in json.loads(requests)]
        print(json.dumps(await asyncio.wait_for(asyncio.gather(*asked), 30)))


asyncio.run(main())
