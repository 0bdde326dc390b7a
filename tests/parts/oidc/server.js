// An OIDC provider for tests: prints its issuer as one line of JSON, issues whatever claims it is asked for.
// POST /token with grant_type=password&username=ann; extra claims as JSON in the form field `claims`.
const { OAuth2Server } = require('oauth2-mock-server');
(async () => {
  const server = new OAuth2Server();
  await server.issuer.keys.generate('RS256');
  await server.start(Number(process.argv[2] || 0), '127.0.0.1');
  server.service.on('beforeTokenSigning', (token, request) => {
    token.payload.aud = 'lazaret';
    const body = request.body || {};
    if (body.username) token.payload.sub = body.username;
    if (body.claims) Object.assign(token.payload, JSON.parse(body.claims));
  });
  process.on('SIGUSR2', () => server.issuer.keys.generate('ES256'));
  console.log(JSON.stringify({ issuer: server.issuer.url, port: server.address().port }));
})();
