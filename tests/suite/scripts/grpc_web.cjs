// The client of gRPC-Web that browsers use, with XMLHttpRequest by xhr2. Plays a scene, prints what it saw as JSON.
//
//     grpc_web.cjs URL text|binary unary|count [NAME=VALUE...]

global.XMLHttpRequest = require('xhr2');
const web = require('grpc-web');

const [url, format, scene, ...rest] = process.argv.slice(2);
const metadata = Object.fromEntries(rest.map((pair) => pair.split('=')));
const client = new web.GrpcWebClientBase({ format });
const bytes = (text) => new Uint8Array(Buffer.from(text));
const text = (message) => Buffer.from(message).toString();
const method = (name, type) =>
  new web.MethodDescriptor(`/test.Echo/${name}`, type, Object, Object, (message) => message, (message) => message);
const began = Date.now();
let shown = false;
const show = (seen) => {
  // After an error comes the end.
  if (!shown) console.log(JSON.stringify({ ...seen, took: Date.now() - began }));
  shown = true;
};

if (scene === 'unary') {
  const descriptor = method('Unary', web.MethodType.UNARY);
  let status;
  const call = client.rpcCall(`${url}/test.Echo/Unary`, bytes('hello'), metadata, descriptor, (error, reply) => {
    if (error) show({ code: error.code, message: error.message, metadata: error.metadata });
    // The status comes behind the message.
    else setTimeout(() => show({ reply: text(reply), status }), 50);
  });
  call.on('status', (said) => { status = said; });
} else {
  const heard = [];
  const call = client.serverStreaming(
    `${url}/test.Echo/Count`, bytes('4'), metadata, method('Count', web.MethodType.SERVER_STREAMING));
  let status;
  call.on('data', (message) => heard.push([text(message), Date.now() - began]));
  call.on('status', (said) => { status = said; });
  call.on('error', (error) => show({ code: error.code, message: error.message, metadata: error.metadata, heard }));
  call.on('end', () => setTimeout(() => show({ heard, status }), 50));
}
