// Tests the directory with Microsoft's JavaScript SDK (@microsoft/microsoft-graph-client), over HTTPS: the
// SDK does not send tokens over plain HTTP.
//
// usage: NODE_EXTRA_CA_CERTS=CA.PEM node javascript_sdk.mjs QUICKSTART.JSON
//
// Needs: npm install @microsoft/microsoft-graph-client, and openssl. Exits with 0 if every step passes.

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
    // Host names without the port: with a port the SDK silently omits the token.
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

  // Read, change and write back the whole object.
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
  const name = `O'Brien's applications ${Date.now()}`;
  const [root, spare] = [authority("js-app-root"), authority("js-app-spare")];
  const middle = authority("js-app-middle", "js-app-root");
  const of = (certificate, isRootAuthority) => ({ certificate, isRootAuthority });
  const create = (authorities) => graph.api(many).post({
    "@odata.type": "#microsoft.graph.certificateBasedApplicationConfiguration",
    displayName: name,
    trustedCertificateAuthorities: authorities,
  });
  for (const bad of [[], [of(middle, false)], [of(root, true), of(spare, true)]]) {
    await fails(create(bad), 400, "Request_BadRequest", "Invalid value specified");
  }
  await fails(create([of("AAAA", true)]), 400, "Request_BadRequest",
    "'certificate' of resource 'CertificateAuthorityInformation'");
  const made = await create([of(root, true)]);
  const one = `${many}/${made.id}`;

  const quoted = name.replaceAll("'", "''");
  for (const filter of [`displayName eq '${quoted}'`, `id in ('${made.id}')`]) {
    const page = await graph.api(many).filter(filter).expand("trustedCertificateAuthorities").get();
    assert.deepEqual(page.value.map((c) => c.id), [made.id]);
    assert.equal(page.value[0].trustedCertificateAuthorities[0].issuer, "CN=js-app-root");
  }
  // Read, change and write back the whole object.
  const read = await graph.api(one).get();
  read.description = "e";
  assert.equal(await graph.api(one).patch(read), undefined);
  assert.equal((await graph.api(one).get()).description, "e");
  await fails(graph.api(one).patch({ displayName: 7 }), 400, "Request_BadRequest", "displayName");
  const inside = `${one}/trustedCertificateAuthorities`;
  const added = await graph.api(inside).post(of(middle, false));
  await fails(graph.api(inside).post(of(spare, true)), 400, "Request_BadRequest", "isRootAuthority");
  const old = (await graph.api(inside).get()).value.find((a) => a.isRootAuthority);
  await graph.api(`${inside}/${old.id}`).patch({ ...old, certificate: spare });
  const issuers = (await graph.api(inside).get()).value.map((a) => a.issuer);
  assert.deepEqual(issuers.sort(), ["CN=js-app-root", "CN=js-app-spare"]);
  await graph.api(`${inside}/${added.id}`).delete();
  await fails(graph.api(`${inside}/${added.id}`).get(), 404, "Request_ResourceNotFound", added.id);
  assert.equal((await graph.api(inside).get()).value.length, 1);
  await graph.api(one).delete();
  await fails(graph.api(one).get(), 404, "Request_ResourceNotFound", made.id);
}

async function devices(graph) {
  const fleets = "/directory/certificateAuthorities/mutualTlsOauthConfigurations";
  const templates = "/directory/templates/deviceTemplates";
  const fleet = await graph.api(fleets).post({ displayName: "js", tlsClientAuthParameter: "tls_client_auth_san_uri" });
  const template = await graph.api(templates).post({
    mutualTlsOauthConfigurationId: fleet.id,
    deviceAuthority: "ADT", manufacturer: "Acme", model: "Camera", operatingSystem: "Linux",
  });
  const of = `${templates}/${template.id}`;
  await fails(graph.api(`${fleets}/${fleet.id}`).delete(), 400, "Request_BadRequest", template.id);
  await fails(graph.api(of).patch({ model: "other" }), 405, "Request_BadRequest", "not allowed");
  const latest = await graph.api("/devices/delta").query({ "$deltatoken": "latest" }).get();
  assert.deepEqual(latest.value, []);

  const made = [];
  for (const n of [1, 2, 3]) {
    const externalDeviceId = `urn:js:${Date.now()}:${n}`;
    made.push(await graph.api(`${of}/createDeviceFromTemplate`).post({ externalDeviceId }));
    assert.equal(made.at(-1).accountEnabled, true);
    assert.deepEqual(made.at(-1).physicalIds, [`[EXTID]:${externalDeviceId}`]);
  }
  const name = made[1].displayName;
  await fails(graph.api(`${of}/createDeviceFromTemplate`).post({ externalDeviceId: name }),
    400, "Request_BadRequest", "externalDeviceId");
  await fails(graph.api("/devices").post({ displayName: name }), 400, "Request_BadRequest", "createDeviceFromTemplate");
  const found = await graph.api("/devices").filter(`displayName eq '${name}'`).get();
  assert.deepEqual(found.value.map((d) => d.id), [made[1].id]);
  const inside = [];
  const first = await graph.api(`${of}/deviceInstances`).top(2).get();
  await new PageIterator(graph, first, (d) => { inside.push(d.id); return true; }).iterate();
  assert.deepEqual(inside, made.map((d) => d.id).sort());

  // Read, change and write back the whole object; only accountEnabled may change.
  const read = await graph.api(`/devices/${made[0].id}`).get();
  await fails(graph.api(`/devices/${read.id}`).patch({ ...read, displayName: "other" }),
    400, "Request_BadRequest", "displayName");
  await graph.api(`/devices/${read.id}`).patch({ ...read, accountEnabled: false });
  assert.equal((await graph.api(`/devices/${read.id}`).get()).accountEnabled, false);
  await graph.api(`/devices/${made[2].id}`).delete();
  await fails(graph.api(`/devices/${made[2].id}`).get(), 404, "Request_ResourceNotFound", made[2].id);
  const changed = new Map();
  let link = latest["@odata.deltaLink"];
  while (link) {
    const page = await graph.api(link).get();
    for (const device of page.value) changed.set(device.id, device);
    link = page["@odata.nextLink"];
  }
  assert.equal(changed.get(made[0].id).accountEnabled, false);
  assert.equal(changed.get(made[1].id)["@anchorgate.mutualTlsOauthConfigurationId"], fleet.id);
  assert.deepEqual(changed.get(made[2].id), { id: made[2].id, "@removed": { reason: "deleted" } });
  for (const device of made.slice(0, 2)) await graph.api(`/devices/${device.id}`).delete();
  await graph.api(of).delete();
  await graph.api(`${fleets}/${fleet.id}`).delete();
}

try {
  const graph = client(where.directory_token);
  await configurations(graph);
  await applications(graph);
  await devices(graph);
  await fails(client("no-such-token").api("/directory/certificateAuthorities/mutualTlsOauthConfigurations").get(),
    401, "InvalidAuthenticationToken", "token");
  console.log(`javascript sdk: ${where.directory_url}: every step passed`);
} finally {
  rmSync(folder, { recursive: true });
}
