"""Tests the directory with Microsoft's Python SDK (msgraph-beta-sdk), over plain loopback HTTP and HTTPS.

usage: python_sdk.py QUICKSTART.JSON

Needs: pip install msgraph-beta-sdk (which installs cryptography). Exits with 0 if every step passes.
"""

import asyncio
import base64
import datetime
import json
import ssl
import sys
import time
import uuid

import httpx
from azure.core.credentials import AccessToken
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from msgraph_beta import GraphRequestAdapter, GraphServiceClient
from msgraph_beta.generated.models.certificate_authority import CertificateAuthority
from msgraph_beta.generated.models.certificate_authority_as_entity import (
    CertificateAuthorityAsEntity,
)
from msgraph_beta.generated.models.certificate_based_application_configuration import (
    CertificateBasedApplicationConfiguration,
)
from msgraph_beta.generated.directory.templates.device_templates.item.create_device_from_template.create_device_from_template_post_request_body import (  # noqa: E501
    CreateDeviceFromTemplatePostRequestBody,
)
from msgraph_beta.generated.models.device import Device
from msgraph_beta.generated.models.device_template import DeviceTemplate
from msgraph_beta.generated.models.mutual_tls_oauth_configuration import (
    MutualTlsOauthConfiguration,
)
from msgraph_beta.generated.models.o_data_errors.o_data_error import ODataError
from msgraph_beta.generated.models.tls_client_registration_metadata import (
    TlsClientRegistrationMetadata,
)
from msgraph_core import GraphClientFactory


class StaticCredential:
    """Replaces azure-identity for a directory with static tokens."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *scopes, **kwargs):
        return AccessToken(self.token, int(time.time()) + 3600)


def authority(name, issuer=None):
    """A CA certificate and its key, self-signed or issued by another CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    return certificate, key


def der(made):
    return made[0].public_bytes(serialization.Encoding.DER)


def client(root, token, ca_file):
    provider = AzureIdentityAuthenticationProvider(
        StaticCredential(token), allowed_hosts=[httpx.URL(root).host]
    )
    context = ssl.create_default_context(cafile=ca_file) if root.startswith("https") else True
    http = GraphClientFactory.create_with_default_middleware(
        client=httpx.AsyncClient(verify=context, timeout=30)
    )
    adapter = GraphRequestAdapter(provider, client=http)
    adapter.base_url = root + "/beta"
    return GraphServiceClient(request_adapter=adapter)


async def fails(awaitable, status, code, word):
    try:
        await awaitable
    except ODataError as error:
        assert error.response_status_code == status, error.response_status_code
        assert error.error.code == code, error.error.code
        assert word in error.error.message, error.error.message
        assert uuid.UUID(error.error.inner_error.request_id)
        return
    raise AssertionError(f"no {status} {code}")


def query(builder, **options):
    """A request configuration with query options, for any request builder."""
    get = getattr(builder, builder.__class__.__name__ + "GetQueryParameters")
    return RequestConfiguration(query_parameters=get(**options))


async def configurations(graph):
    many = graph.directory.certificate_authorities.mutual_tls_oauth_configurations
    name = f"O'Brien's fleet {uuid.uuid4()}"
    root, spare = authority("sdk root"), authority("sdk spare")
    middle = authority("sdk intermediate", root)

    made = await many.post(
        MutualTlsOauthConfiguration(
            display_name=name,
            tls_client_auth_parameter=TlsClientRegistrationMetadata.Tls_client_auth_san_uri,
            certificate_authorities=[
                CertificateAuthority(
                    certificate=der(root),
                    is_root_authority=True,
                    certificate_revocation_list_url="http://pki.example/root.crl",
                ),
                CertificateAuthority(certificate=der(middle), is_root_authority=False),
            ],
        )
    )
    assert uuid.UUID(made.id) and made.deleted_date_time is None
    assert made.tls_client_auth_parameter == TlsClientRegistrationMetadata.Tls_client_auth_san_uri
    first = made.certificate_authorities[0]
    assert first.certificate == base64.b64encode(der(root)) or first.certificate == der(root)
    assert first.issuer == "CN=sdk root" and len(first.issuer_ski) == 40
    one = many.by_mutual_tls_oauth_configuration_id(made.id)

    quoted = name.replace("'", "''")
    for text in [f"displayName eq '{quoted}'", f"id in ('{made.id}')"]:
        page = await many.get(query(many, filter=text))
        assert [c.id for c in page.value] == [made.id], text
    page = await many.get(query(many, count=True, top=1, select=["id", "displayName"]))
    assert len(page.value) == 1 and page.odata_count >= 1
    assert page.value[0].certificate_authorities is None
    assert int(await many.count.get()) >= 1

    # All pages, by the directory's links.
    ids, page = [], await many.get(query(many, top=1))
    while page:
        ids += [c.id for c in page.value]
        page = await many.with_url(page.odata_next_link).get() if page.odata_next_link else None
    assert made.id in ids and len(ids) == len(set(ids))

    # Read, change and write back the whole object, like in the documentation.
    read = await one.get()
    read.certificate_authorities.append(
        CertificateAuthority(certificate=der(spare), is_root_authority=True)
    )
    changed = await one.patch(read)
    assert len(changed.certificate_authorities) == 3
    read = await one.get()
    read.certificate_authorities = [
        a for a in read.certificate_authorities if a.issuer != "CN=sdk spare"
    ]
    await one.patch(read)
    read = await one.get()
    assert [a.is_root_authority for a in read.certificate_authorities] == [True, False]
    assert read.certificate_authorities[0].certificate_revocation_list_url.endswith("root.crl")

    await fails(
        one.patch(
            MutualTlsOauthConfiguration(
                tls_client_auth_parameter=TlsClientRegistrationMetadata.Tls_client_auth_san_ip
            )
        ),
        400, "Request_BadRequest", "tlsClientAuthParameter",
    )
    await fails(
        one.patch(
            MutualTlsOauthConfiguration(
                certificate_authorities=[
                    CertificateAuthority(certificate=b"not a certificate", is_root_authority=True)
                ]
            )
        ),
        400, "Request_BadRequest",
        "Invalid value specified for property 'certificate' of resource"
        " 'CertificateAuthorityInformation'.",
    )
    assert len((await one.get()).certificate_authorities) == 2
    await one.delete()
    await fails(one.get(), 404, "Request_ResourceNotFound", made.id)


async def applications(graph):
    many = graph.directory.certificate_authorities.certificate_based_application_configurations
    name = f"O'Brien's applications {uuid.uuid4()}"
    root, spare = authority("app root"), authority("app spare")
    middle = authority("app intermediate", root)

    def one_of(made, is_root):
        return CertificateAuthorityAsEntity(certificate=der(made), is_root_authority=is_root)

    def new(*authorities):
        return CertificateBasedApplicationConfiguration(
            display_name=name, description="d", trusted_certificate_authorities=list(authorities)
        )

    bad = CertificateAuthorityAsEntity(certificate=b"not a certificate", is_root_authority=True)
    for body in [new(), new(one_of(middle, False)), new(one_of(root, True), one_of(spare, True))]:
        await fails(many.post(body), 400, "Request_BadRequest", "Invalid value specified")
    await fails(
        many.post(new(bad)), 400, "Request_BadRequest",
        "'certificate' of resource 'CertificateAuthorityInformation'",
    )
    made = await many.post(new(one_of(root, True)))
    assert uuid.UUID(made.id) and made.description == "d" and made.deleted_date_time is None
    one = many.by_certificate_based_application_configuration_id(made.id)

    quoted = name.replace("'", "''")
    for text in [f"displayName eq '{quoted}'", f"id in ('{made.id}')"]:
        page = await many.get(query(many, filter=text))
        assert [c.id for c in page.value] == [made.id], text
    assert int(await many.count.get()) >= 1
    page = await many.get(query(many, expand=["trustedCertificateAuthorities"]))
    mine = [c for c in page.value if c.id == made.id][0]
    assert mine.trusted_certificate_authorities[0].issuer == "CN=app root"

    # Read, change and write back the whole object: the response to PATCH has no body.
    read = await one.get()
    assert (read.id, read.display_name) == (made.id, name)
    read.description = "e"
    assert await one.patch(read) is None
    assert (await one.get()).description == "e"
    await fails(
        one.patch(CertificateBasedApplicationConfiguration(display_name="x" * 257)),
        400, "Request_BadRequest", "displayName",
    )

    inside = one.trusted_certificate_authorities
    added = await inside.post(one_of(middle, False))
    assert added.issuer == "CN=app root" and added.issuer_subject_key_identifier
    within = inside.by_certificate_authority_as_entity_id(added.id)
    assert (await within.get()).is_root_authority is False
    await fails(inside.post(one_of(middle, False)), 400, "Request_BadRequest", "certificate")
    await fails(inside.post(one_of(spare, True)), 400, "Request_BadRequest", "isRootAuthority")
    await fails(within.patch(bad), 400, "Request_BadRequest", "'certificate'")
    listed = (await inside.get()).value
    assert len(listed) == 2
    # Replaces the root in one step, with the object as it was read.
    old = [a for a in listed if a.is_root_authority][0]
    old.certificate = der(spare)
    assert await inside.by_certificate_authority_as_entity_id(old.id).patch(old) is None
    listed = (await inside.get()).value
    assert [a.issuer for a in listed if a.is_root_authority] == ["CN=app spare"]
    await within.delete()
    await fails(within.get(), 404, "Request_ResourceNotFound", added.id)
    assert len((await inside.get()).value) == 1
    await one.delete()
    await fails(one.get(), 404, "Request_ResourceNotFound", made.id)


async def devices(graph):
    fleets = graph.directory.certificate_authorities.mutual_tls_oauth_configurations
    fleet = await fleets.post(
        MutualTlsOauthConfiguration(
            display_name="devices",
            tls_client_auth_parameter=TlsClientRegistrationMetadata.Tls_client_auth_san_uri,
        )
    )
    templates = graph.directory.templates.device_templates
    template = await templates.post(
        DeviceTemplate(
            mutual_tls_oauth_configuration_id=fleet.id,
            device_authority="ADT", manufacturer="Acme", model="Camera", operating_system="Linux",
        )
    )
    assert template.mutual_tls_oauth_configuration_id == fleet.id
    of = templates.by_device_template_id(template.id)
    assert (await of.get()).model == "Camera"
    page = await templates.get(query(templates, filter=f"id eq '{template.id}'"))
    assert [t.id for t in page.value] == [template.id]
    await fails(
        fleets.by_mutual_tls_oauth_configuration_id(fleet.id).delete(),
        400, "Request_BadRequest", template.id,
    )

    many = graph.devices
    latest = await many.delta.get(query(many.delta, select=["accountEnabled", "physicalIds"]))
    while latest.odata_next_link:
        latest = await many.delta.with_url(latest.odata_next_link).get()

    # The SDK sends `accountEnabled: false` by default.
    name = f"urn:uuid:{uuid.uuid4()}"
    body = CreateDeviceFromTemplatePostRequestBody(external_device_id=name)
    made = await of.create_device_from_template.post(body)
    assert made.display_name == name and made.account_enabled is False
    assert made.physical_ids == [f"[EXTID]:{name}"] and made.profile_type == "IoT"
    key = "X509:<UID>" + base64.b64encode(name.encode("utf-16-le")).decode()
    key, sent = key.encode("utf-16-le"), made.alternative_security_ids[0].key
    assert sent == key or sent == base64.b64encode(key)
    # The SDK parses UUID-like strings as UUIDs.
    assert str(made.additional_data["@anchorgate.mutualTlsOauthConfigurationId"]) == fleet.id
    await fails(
        of.create_device_from_template.post(body), 400, "Request_BadRequest", "externalDeviceId"
    )

    one = many.by_device_id(made.id)
    read = await one.get()
    read.account_enabled = True
    assert await one.patch(read) is None
    assert (await one.get()).account_enabled is True
    await fails(one.patch(Device(model="other")), 400, "Request_BadRequest", "model")
    page = await many.get(query(many, filter=f"displayName eq '{name}'"))
    assert [d.id for d in page.value] == [made.id]
    assert int(await many.count.get()) >= 1
    inside = await of.device_instances.get()
    assert [d.id for d in inside.value] == [made.id]
    by_key = await of.device_instances_with_device_id(read.device_id).get()
    assert by_key.id == made.id
    assert (await of.owners.get()).value == []

    changed = await many.delta.with_url(latest.odata_delta_link).get()
    assert [(d.id, d.account_enabled) for d in changed.value] == [(made.id, True)]
    await one.delete()
    await fails(one.get(), 404, "Request_ResourceNotFound", made.id)
    gone = await many.delta.with_url(changed.odata_delta_link).get()
    assert [d.id for d in gone.value] == [made.id]
    assert gone.value[0].additional_data["@removed"] == {"reason": "deleted"}
    await fails(
        many.delta.with_url(changed.odata_delta_link + "x").get(), 410, "syncStateNotFound", "start again"
    )
    await of.delete()
    await fleets.by_mutual_tls_oauth_configuration_id(fleet.id).delete()


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        where = json.load(file)
    for name in ["directory_http_url", "directory_url"]:
        root = where[name].rstrip("/").removesuffix("/beta")
        graph = client(root, where["directory_token"], where["ca_file"])
        await configurations(graph)
        await applications(graph)
        await devices(graph)
        stranger = client(root, "no-such-token", where["ca_file"])
        await fails(
            stranger.directory.certificate_authorities.mutual_tls_oauth_configurations.get(),
            401, "InvalidAuthenticationToken", "token",
        )
        print(f"python sdk: {root}: every step passed")


asyncio.run(main())
