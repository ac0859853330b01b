// A real OpenID Provider (npm `oidc-provider`, certified) on a free port, which it prints.
//
//   clients: service/secret gets JWT access tokens, opaque/secret gets opaque ones (client credentials, scope `api:read api:write`);
//            gateway/secret may ask about tokens
//   POST /_rotate makes new keys, and forgets the old ones; GET /_asked says how many questions about tokens there were
const { createServer } = require('node:http');
const { generateKeyPairSync } = require('node:crypto');

const RESOURCE = 'https://api.example';
const lifetime = Number(process.argv[2] || 60);

const key = (alg, type, options, kid) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid,
});

let generation = 0;
const keys = () => {
  generation += 1;
  return [
    key('RS256', 'rsa', { modulusLength: 2048 }, `rs-${generation}`),
    key('ES256', 'ec', { namedCurve: 'P-256' }, `es-${generation}`),
  ];
};

const client = (client_id, more) => ({
  client_id, client_secret: 'secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
  scope: 'api:read api:write', ...more,
});

const settings = () => ({
  jwks: { keys: keys() },
  clients: [client('service'), client('opaque'), client('gateway')],
  scopes: ['openid', 'api:read', 'api:write'],
  cookies: { keys: ['for tests'] },
  ttl: { ClientCredentials: lifetime },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_, asking) => asking.clientId === 'gateway' },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (_, asking) => (asking.clientId === 'service' ? RESOURCE : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'api:read api:write', audience: RESOURCE, accessTokenFormat: 'jwt', accessTokenTTL: lifetime,
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: () => ({ roles: ['reader'] }),
});

const main = async () => {
  const { default: Provider } = await import(require.resolve('oidc-provider'));
  let asked = 0;
  let handle;
  const server = createServer((request, response) => {
    if (request.url === '/_asked') return response.end(String(asked));
    if (request.url === '/_rotate') {
      handle = new Provider(issuer, settings()).callback();
      return response.end();
    }
    if (request.url === '/token/introspection') asked += 1;
    return handle(request, response);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  handle = new Provider(issuer, settings()).callback();
  console.log(`port ${server.address().port}`);
  process.stdin.on('end', () => process.exit(0)).resume();
};

main();
