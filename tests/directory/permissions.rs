//! Graph's permissions: each allows exactly its documented operations.

use anchorgate::directory::Config;
use anchorgate::directory::auth::StaticToken;
use anchorgate::directory::permissions::Permission;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use serde_json::json;

use crate::support::directory::{A, D, M, Server, T, answer};

#[derive(Debug, Clone, Copy, PartialEq)]
enum May {
    ReadTrust,
    WriteTrust,
    ReadApplications,
    WriteApplications,
    ReadTemplates,
    CreateTemplates,
    DeleteTemplates,
    ReadDevices,
    CreateDevices,
    WriteDevices,
}

use May::*;

/// Allowed operations by the permissions reference and the pages of the operations.
const TABLE: [(&str, &[May]); 11] = [
    ("MutualTlsOauthConfiguration.Read.All", &[ReadTrust]),
    ("MutualTlsOauthConfiguration.ReadWrite.All", &[ReadTrust, WriteTrust]),
    ("AppCertTrustConfiguration.Read.All", &[ReadApplications]),
    ("AppCertTrustConfiguration.ReadWrite.All", &[ReadApplications, WriteApplications]),
    ("DeviceTemplate.Read.All", &[ReadTemplates]),
    ("DeviceTemplate.ReadWrite.All", &[ReadTemplates, CreateTemplates, DeleteTemplates]),
    ("DeviceTemplate.Create", &[CreateTemplates, CreateDevices]),
    ("Device.Read.All", &[ReadDevices]),
    ("Device.ReadWrite.All", &[ReadDevices, CreateDevices, WriteDevices]),
    ("Device.CreateFromOwnedTemplate", &[CreateDevices]),
    ("Directory.Read.All", &[ReadTrust, ReadApplications, ReadTemplates, ReadDevices]),
];

#[tokio::test]
async fn each_permission_allows_what_graph_says_and_nothing_else() {
    const ABSENT: &str = "00000000-0000-4000-8000-000000000000";
    let token = |name: &str| StaticToken {
        name: name.into(),
        sha256: Fingerprint::of(name.as_bytes()).0,
        permissions: Permission::parse(name).into_iter().collect(),
    };
    let names = TABLE.map(|(name, _)| name);
    let tokens = names.into_iter().chain(["none"]).map(token).collect();
    let server = Server::with(Config { tokens, ..Config::default() }).await;
    let authorities = format!("{A}/{ABSENT}/trustedCertificateAuthorities");
    let at = |path: &str| format!("{path}/{ABSENT}");
    let requests = [
        (ReadTrust, Method::GET, M.to_owned()),
        (ReadTrust, Method::GET, M.replace("/directory", "")),
        (ReadTrust, Method::GET, format!("{M}/$count")),
        (ReadTrust, Method::GET, at(M)),
        (WriteTrust, Method::POST, M.to_owned()),
        (WriteTrust, Method::PATCH, at(M)),
        (WriteTrust, Method::DELETE, at(M)),
        (ReadApplications, Method::GET, A.to_owned()),
        (ReadApplications, Method::GET, format!("{A}/$count")),
        (ReadApplications, Method::GET, at(A)),
        (ReadApplications, Method::GET, authorities.clone()),
        (ReadApplications, Method::GET, at(&authorities)),
        (WriteApplications, Method::POST, A.to_owned()),
        (WriteApplications, Method::PATCH, at(A)),
        (WriteApplications, Method::DELETE, at(A)),
        (WriteApplications, Method::POST, authorities.clone()),
        (WriteApplications, Method::PATCH, at(&authorities)),
        (WriteApplications, Method::DELETE, at(&authorities)),
        (ReadTemplates, Method::GET, T.to_owned()),
        (ReadTemplates, Method::GET, at(T)),
        (ReadTemplates, Method::GET, format!("{T}/{ABSENT}/owners")),
        (CreateTemplates, Method::POST, T.to_owned()),
        (DeleteTemplates, Method::DELETE, at(T)),
        (CreateDevices, Method::POST, format!("{T}/{ABSENT}/createDeviceFromTemplate")),
        (ReadDevices, Method::GET, format!("{T}/{ABSENT}/deviceInstances")),
        (ReadDevices, Method::GET, D.to_owned()),
        (ReadDevices, Method::GET, format!("{D}/$count")),
        (ReadDevices, Method::GET, format!("{D}/delta")),
        (ReadDevices, Method::GET, at(D)),
        (WriteDevices, Method::PATCH, at(D)),
        (WriteDevices, Method::DELETE, at(D)),
    ];
    for (name, allowed) in TABLE.into_iter().chain([("none", &[][..])]) {
        for (what, method, path) in &requests {
            let request = server.client.request(method.clone(), format!("{}{path}", server.url));
            let (status, body) = answer(request.bearer_auth(name).json(&json!({}))).await;
            let refused = status == 403;
            assert_eq!(
                refused,
                !allowed.contains(what),
                "{name}: {method} {path}: {status} {body}"
            );
            assert!(refused || matches!(status, 200 | 400 | 404), "{method} {path}: {status}");
            if refused {
                assert_eq!(body["error"]["code"], "Authorization_RequestDenied");
            }
        }
    }
}
