// The directory through Microsoft's own JavaScript SDK (@microsoft/microsoft-graph-client), over HTTPS:
// the SDK sends no token over plain HTTP.
//
// usage: NODE_EXTRA_CA_CERTS=CA.PEM node javascript_sdk.mjs QUICKSTART.JSON
//
// Needs: npm install @microsoft/microsoft-graph-client, and openssl. Exits 0 when every step held.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, GraphError, PageIterator } from "@microsoft/microsoft-graph-client";

const where = JSON.parse(readFileSync(process.argv[2], "utf8"));
const folder = mkdtempSync(join(tmpdir(), "anchorgate-sdk-"));

function openssl(...args) {
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
}

/** A CA certificate in base64 DER: self-signed, or issued by `issuer`. */
function authority(name, issuer) {
  const path = (suffix) => join(folder, `${name}.${suffix}`);
  const ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
  const by = issuer ? ["-CA", join(folder, `${issuer}.pem`), "-CAkey", join(folder, `${issuer}.key`)] : [];
  openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
    "-subj", `/CN=${name}`, "-keyout", path("key"), "-out", path("pem"), ...ca, ...by);
  openssl("x509", "-in", path("pem"), "-outform", "DER", "-out", path("der"));
  return readFileSync(path("der")).toString("base64");
}

function client(token) {
  const root = where.directory_url.replace(/\/(beta\/?)?$/, "");
  return Client.initWithMiddleware({
    baseUrl: `${root}/`,
    defaultVersion: "beta",
    // Host names without the port: with it the SDK silently sends no token.
    customHosts: new Set([new URL(root).hostname]),
    authProvider: { getAccessToken: async () => token },
  });
}

async function fails(promise, status, code, word) {
  const error = await promise.then(() => assert.fail(`no ${status} ${code}`), (error) => error);
  assert.ok(error instanceof GraphError, String(error));
  assert.equal(error.statusCode, status);
  assert.equal(error.code, code);
  assert.ok(error.message.includes(word), error.message);
  assert.match(error.requestId, /^[0-9a-f-]{36}$/);
  assert.ok(error.date instanceof Date && !Number.isNaN(error.date.getTime()));
}

async function configurations(graph) {
  const many = "/directory/certificateAuthorities/mutualTlsOauthConfigurations";
  const name = `O'Brien's fleet ${Date.now()}`;
  const [root, spare] = [authority("js-root"), authority("js-spare")];
  const middle = authority("js-middle", "js-root");
  const made = await graph.api(many).post({
    displayName: name,
    tlsClientAuthParameter: "tls_client_auth_san_dns",
    certificateAuthorities: [
      { "@odata.type": "microsoft.graph.certificateAuthority", certificate: root, isRootAuthority: true },
      { certificate: middle, isRootAuthority: false },
    ],
  });
  assert.match(made.id, /^[0-9a-f-]{36}$/);
  assert.equal(made.certificateAuthorities[0].issuer, "CN=js-root");
  const one = `${many}/${made.id}`;

  const quoted = name.replaceAll("'", "''");
  for (const filter of [`displayName eq '${quoted}'`, `id in ('${made.id}')`]) {
    const page = await graph.api(many).filter(filter).get();
    assert.deepEqual(page.value.map((c) => c.id), [made.id]);
  }
  const selected = await graph.api(many).select("id,displayName").top(1).count(true).get();
  assert.ok(selected["@odata.count"] >= 1 && selected.value[0].certificateAuthorities === undefined);
  const ids = [];
  const first = await graph.api(many).top(1).get();
  await new PageIterator(graph, first, (c) => { ids.push(c.id); return true; }).iterate();
  assert.ok(ids.includes(made.id) && new Set(ids).size === ids.length);

  // Read, change, write the whole.
  const read = await graph.api(one).get();
  read.certificateAuthorities.push({ certificate: spare, isRootAuthority: true });
  const changed = await graph.api(one).patch(read);
  assert.equal(changed.certificateAuthorities.length, 3);
  changed.certificateAuthorities = changed.certificateAuthorities.filter((a) => a.certificate !== spare);
  await graph.api(one).header("If-Match", changed["@odata.etag"]).patch(changed);
  assert.equal((await graph.api(one).get()).certificateAuthorities.length, 2);
  await fails(graph.api(one).header("If-Match", changed["@odata.etag"]).patch({ displayName: "late" }),
    412, "Request_PreconditionFailed", "changed");

  await fails(graph.api(one).patch({ certificateAuthorities: [{ certificate: "AAAA", isRootAuthority: true }] }),
    400, "Request_BadRequest", "'certificate' of resource 'CertificateAuthorityInformation'");
  await fails(graph.api(`${many}`).orderby("displayName").get(), 400, "Request_UnsupportedQuery", "$orderby");
  await fails(graph.api("/directory/certificateAuthorities/bogus").get(), 400, "BadRequest", "segment 'bogus'");
  await graph.api(one).delete();
  await fails(graph.api(one).get(), 404, "Request_ResourceNotFound", made.id);
}

async function applications(graph) {
  const many = "/directory/certificateAuthorities/certificateBasedApplicationConfigurations";
  const root = authority("js-app-root");
  const middle = authority("js-app-middle", "js-app-root");
  const made = await graph.api(many).post({
    "@odata.type": "#microsoft.graph.certificateBasedApplicationConfiguration",
    displayName: "js",
    trustedCertificateAuthorities: [{ certificate: root, isRootAuthority: true }],
  });
  const one = `${many}/${made.id}`;
  await graph.api(one).patch({ description: "e" });
  const read = await graph.api(one).expand("trustedCertificateAuthorities").get();
  assert.equal(read.description, "e");
  assert.equal(read.trustedCertificateAuthorities[0].issuer, "CN=js-app-root");
  const inside = `${one}/trustedCertificateAuthorities`;
  const added = await graph.api(inside).post({ certificate: middle, isRootAuthority: false });
  assert.equal((await graph.api(inside).get()).value.length, 2);
  await graph.api(`${inside}/${added.id}`).delete();
  assert.equal((await graph.api(inside).get()).value.length, 1);
  await graph.api(one).delete();
}

try {
  const graph = client(where.directory_token);
  await configurations(graph);
  await applications(graph);
  await fails(client("no-such-token").api("/directory/certificateAuthorities/mutualTlsOauthConfigurations").get(),
    401, "InvalidAuthenticationToken", "token");
  console.log(`javascript sdk: ${where.directory_url}: every step held`);
} finally {
  rmSync(folder, { recursive: true });
}
