// An HTTP server by Node.js in every form that an upstream may have. It says its port, and what becomes of event streams.
//
//     http_server.cjs http1|http1_tls|unix|h2c|h2_tls [CERTIFICATE KEY | PATH]
//
// /echo sends back what it got; /seen says how the request looked; /events sends `count` events, one each `gap` ms;
// /trailers ends with a trailer. /silent/ and /drip/ are services of gRPC that do not look at the clock: one never answers, the
// other one sends a message each 50 ms.

const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');

const [kind, first, second] = process.argv.slice(2);
const say = (...words) => console.log(words.join(' '));
const pair = () => ({ cert: fs.readFileSync(first), key: fs.readFileSync(second) });

function answer(request, response) {
  const url = new URL(request.url, 'http://server');
  const ask = (name, usual) => Number(url.searchParams.get(name) ?? usual);
  response.setHeader('x-kind', kind);
  switch (url.pathname) {
    case '/echo': {
      response.setHeader('x-method', request.method);
      const pieces = [];
      request.on('data', (piece) => pieces.push(piece));
      request.on('end', () => response.end(Buffer.concat(pieces)));
      break;
    }
    case '/seen':
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ method: request.method, version: request.httpVersion, headers: request.headers }));
      break;
    case '/trailers':
      response.setHeader('trailer', 'x-sum');
      response.write('body');
      response.addTrailers({ 'x-sum': '42' });
      response.end();
      break;
    case '/events': {
      const from = Number(request.headers['last-event-id'] ?? 0);
      say('events', url.searchParams.get('name'), 'from', from);
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
      response.write('retry: 100\n\n');
      let sent = 0;
      const timer = setInterval(() => {
        if (sent === ask('count', 1e9)) {
          clearInterval(timer);
          if (!ask('linger', 0)) response.end();
          return;
        }
        sent += 1;
        response.write(`id: ${from + sent}\ndata: event ${from + sent}\n\n`);
      }, ask('gap', 300));
      response.on('close', () => { clearInterval(timer); say('closed', url.searchParams.get('name')); });
      break;
    }
    case '/silent/Unary':
    case '/silent/Collect':
      say('call silent');
      response.on('close', () => say('over silent'));
      break;
    case '/drip/Count': {
      response.writeHead(200, { 'content-type': 'application/grpc' });
      const timer = setInterval(() => response.write(Buffer.from([0, 0, 0, 0, 1, 120])), 50);
      response.on('close', () => { clearInterval(timer); say('over drip'); });
      break;
    }
    default:
      response.statusCode = 404;
      response.end('nothing here\n');
  }
}

const server = {
  http1: () => http.createServer(answer),
  http1_tls: () => https.createServer(pair(), answer),
  unix: () => http.createServer(answer),
  h2c: () => http2.createServer(answer),
  h2_tls: () => http2.createSecureServer(pair(), answer),
}[kind]();
server.listen(...(kind === 'unix' ? [first] : [0, '127.0.0.1']), () => say('port', server.address().port ?? 1));
// Until whoever started it goes away.
process.stdin.on('end', () => process.exit(0)).resume();
