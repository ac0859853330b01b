// Connect's client of gRPC-Web, which reads streams over HTTP/1.1 and HTTP/2. Prints what it saw as JSON.
//
//     connect.cjs URL 1.1|2 AUTHORITIES|- unary|count|cancel [NAME=VALUE...]

const fs = require('fs');
const { createClient, Code, ConnectError } = require('@connectrpc/connect');
const { createGrpcWebTransport } = require('@connectrpc/connect-node');
const { create, createFileRegistry } = require('@bufbuild/protobuf');
const wkt = require('@bufbuild/protobuf/wkt');

const [baseUrl, httpVersion, authorities, scene, ...rest] = process.argv.slice(2);
const headers = Object.fromEntries(rest.map((pair) => pair.split('=')));

// The service, described as a compiler would.
const text = '.google.protobuf.StringValue';
const echo = create(wkt.FileDescriptorProtoSchema, {
  name: 'echo.proto', package: 'test', syntax: 'proto3', dependency: ['google/protobuf/wrappers.proto'],
  service: [{
    name: 'Echo',
    method: [
      { name: 'Unary', inputType: text, outputType: text },
      { name: 'Count', inputType: text, outputType: text, serverStreaming: true },
    ],
  }],
});
const set = create(wkt.FileDescriptorSetSchema, { file: [wkt.file_google_protobuf_wrappers.proto, echo] });
const service = createFileRegistry(set).getService('test.Echo');

const nodeOptions = authorities === '-' ? {} : { ca: fs.readFileSync(authorities), servername: 'one.test', checkServerIdentity: () => undefined };
const client = createClient(service, createGrpcWebTransport({ baseUrl, httpVersion, nodeOptions }));
const began = Date.now();
const all = (map) => Object.fromEntries(map.entries());

async function play() {
  const heard = [];
  let trailers = {};
  const stop = new AbortController();
  const options = { headers, signal: stop.signal, onTrailer: (map) => { trailers = all(map); } };
  try {
    if (scene === 'unary') {
      const { value } = await client.unary({ value: 'hello' }, options);
      return { reply: value, trailers };
    }
    for await (const { value } of client.count({ value: scene === 'cancel' ? '1000000' : '4' }, options)) {
      heard.push([value, Date.now() - began]);
      if (scene === 'cancel' && heard.length === 3) stop.abort();
    }
    return { heard, trailers };
  } catch (error) {
    const wrong = ConnectError.from(error);
    return { code: Code[wrong.code], message: wrong.rawMessage, metadata: all(wrong.metadata), heard };
  }
}

play().then((seen) => { console.log(JSON.stringify(seen)); process.exit(0); });
