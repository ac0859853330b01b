// A real OpenID Provider (npm `oidc-provider`, certified) on a free port, which it prints.
//
//   clients: service/secret gets JWT access tokens, opaque/secret gets opaque ones (client credentials, scope `api:read api:write`);
//            gateway/secret may ask about tokens; web/secret is for logins, once `_web` has said where it is
//   /_rotate makes new keys, and forgets the old ones; /_asked says how many questions about tokens there were, /_refreshed how many refreshes
//   /_web?origin=http://HOST:PORT: where logins come back to (`/oauth2/callback`, after logouts `/`), and who is told of logouts
const { createServer } = require('node:http');
const { generateKeyPairSync } = require('node:crypto');

const RESOURCE = 'https://api.example';
const lifetime = Number(process.argv[2] || 60);

const key = (alg, type, options, kid) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid,
});

let generation = 0;
const makeKeys = () => {
  generation += 1;
  return [
    key('RS256', 'rsa', { modulusLength: 2048 }, `rs-${generation}`),
    key('ES256', 'ec', { namedCurve: 'P-256' }, `es-${generation}`),
  ];
};
let keys = makeKeys();
let web;

const client = (client_id, more) => ({
  client_id, client_secret: 'secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
  scope: 'api:read api:write', ...more,
});

const login = (origin) => client('web', {
  grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], scope: 'openid profile',
  redirect_uris: [`${origin}/oauth2/callback`], post_logout_redirect_uris: [`${origin}/`],
  backchannel_logout_uri: `${origin}/oauth2/backchannel`, backchannel_logout_session_required: true,
});

const settings = () => ({
  jwks: { keys },
  clients: [client('service'), client('opaque'), client('gateway'), ...(web ? [login(web)] : [])],
  scopes: ['openid', 'profile', 'api:read', 'api:write'],
  claims: { openid: ['sub', 'roles'], profile: ['name'] },
  conformIdTokenClaims: false,
  // Whoever gives a name is that one.
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: `The real ${id}`, roles: ['reader'] }) }),
  issueRefreshToken: () => true,
  cookies: { keys: ['for tests'] },
  ttl: { ClientCredentials: lifetime, AccessToken: lifetime, IdToken: lifetime },
  features: {
    devInteractions: { enabled: true },
    backchannelLogout: { enabled: true },
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

// It warns that it is not set up for production.
for (const kind of ['info', 'warn']) console[kind] = () => {};

const main = async () => {
  const { default: Provider } = await import(require.resolve('oidc-provider'));
  let asked = 0;
  let refreshed = 0;
  let handle;
  const renew = () => {
    const provider = new Provider(issuer, settings());
    provider.on('grant.success', (ctx) => { refreshed += ctx.oidc.params.grant_type === 'refresh_token' ? 1 : 0; });
    provider.on('server_error', (_, error) => console.error(error));
    handle = provider.callback();
  };
  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://x');
    if (url.pathname === '/_asked') return response.end(String(asked));
    if (url.pathname === '/_refreshed') return response.end(String(refreshed));
    if (url.pathname === '/_rotate') keys = makeKeys();
    if (url.pathname === '/_web') web = url.searchParams.get('origin');
    if (url.pathname === '/_rotate' || url.pathname === '/_web') {
      renew();
      return response.end();
    }
    if (url.pathname === '/token/introspection') asked += 1;
    return handle(request, response);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  renew();
  console.log(`port ${server.address().port}`);
  process.stdin.on('end', () => process.exit(0)).resume();
};

main();
