// A resource server that accepts certificate-bound tokens (RFC 9068, RFC 8705), with jose.
//
// Usage: node resource-server.mjs ISSUER AUDIENCE SERVER_PEM SERVER_KEY PORT
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const [issuer, audience, cert, key, port] = process.argv.slice(2);
const metadata = await (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).json();
if (metadata.issuer !== issuer) throw new Error(`the metadata is of ${metadata.issuer}, not of ${issuer}`);
const cacheControl = (await fetch(metadata.jwks_uri)).headers.get('cache-control') ?? '';
const maxAge = Number(/max-age=(\d+)/.exec(cacheControl)?.[1] ?? 300);
// Fetches the key set again when it is as old as the issuer allows, and for an unknown key ID, at most every five seconds.
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri), { cacheMaxAge: maxAge * 1000, cooldownDuration: 5_000 });

/** Returns the claims of a token that is valid on a connection with `certificate` (DER). */
async function check(authorization, certificate) {
  const [scheme, token] = (authorization ?? '').split(' ');
  if (scheme.toLowerCase() !== 'bearer' || !token) throw new Error('no bearer token');
  const { payload } = await jwtVerify(token, keys, {
    issuer, audience, typ: 'at+jwt', algorithms: ['ES256'], clockTolerance: 30,
    requiredClaims: ['sub', 'client_id', 'iat', 'exp', 'jti'],
  });
  const presented = certificate && createHash('sha256').update(certificate).digest('base64url');
  const boundTo = payload.cnf?.['x5t#S256'];
  if (!boundTo || boundTo !== presented) throw new Error('the token is bound to another certificate');
  return payload;
}

// The certificate only identifies the key of the connection: the gateway judged it when it issued the token.
const tls = { cert: readFileSync(cert), key: readFileSync(key), requestCert: true, rejectUnauthorized: false };
createServer(tls, async (request, response) => {
  const answer = (status, body, headers = {}) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify(body));
  };
  try {
    const claims = await check(request.headers.authorization, request.socket.getPeerCertificate().raw);
    answer(200, { subject: claims.sub, scope: claims.scope ?? '' });
  } catch (error) {
    answer(401, { error: 'invalid_token', error_description: error.message }, { 'www-authenticate': 'Bearer error="invalid_token"' });
  }
}).listen(Number(port), '127.0.0.1', () => console.log('ready'));
