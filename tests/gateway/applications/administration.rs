//! Applications that manage the directory.

use super::*;

/// An administrator's script gets its token from the gateway and manages the gateway's own directory.  It
/// uses the same client code as for Microsoft's directory.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_administers_the_directory() {
    const ADMIN: &str = r#"
tls_client_certificate_bound_access_tokens = false

[[client]]
id = "admin"
application_configuration = "CONFIGURATION"
token_endpoint_auth_method = "private_key_jwt"
tls_client_certificate_bound_access_tokens = false
subject_field = "tls_client_auth_subject_dn"
subjects = ["CN=admin"]
audience = "https://directory.example"
scopes = ["MutualTlsOauthConfiguration.ReadWrite.All"]
default_scopes = ["MutualTlsOauthConfiguration.ReadWrite.All"]

[[client]]
id = "keeper"
application_configuration = "CONFIGURATION"
token_endpoint_auth_method = "tls_client_auth"
subject_field = "tls_client_auth_san_dns"
subjects = ["keeper.apps.example"]
audience = "https://directory.example"
scopes = ["AppCertTrustConfiguration.ReadWrite.All"]
default_scopes = ["AppCertTrustConfiguration.ReadWrite.All"]
"#;
    let issuer = |text: String| {
        let own = text.lines().find_map(|line| line.strip_prefix("issuer = ")).expect("an issuer");
        let own = own.trim_matches('"').to_owned();
        let issuers = format!(
            "[[directory.issuers]]\nissuer = \"{own}\"\naudiences = [\"https://directory.example\"]\n\
             jwks_url = \"{own}/jwks.json\"\npermissions_claim = \"scope\"\nca_bundle = \"pki/server-root.pem\"\n\n[[graph]]"
        );
        text.replacen("[[graph]]", &issuers, 1)
    };
    let world = Applications::start_with(ADMIN, issuer).await;
    let (certificate, key) = rsa(&world.issuers[0], "admin");
    let dir = &world.gateway.world.dir;
    let (certificate_file, key_file) = (dir.join("admin.pem"), dir.join("admin.key"));
    std::fs::write(&certificate_file, certificate).expect("written");
    std::fs::write(&key_file, key).expect("written");
    let url = |text: &str| url::Url::parse(text).expect("a URL");
    let directory =
        url(&format!("https://localhost:{}", world.gateway.world.ports.directory.port()));
    let ca = world.gateway.world.server_root.certificate_pem().into_bytes();
    for style in [AssertionStyle::Rs256, AssertionStyle::Ps256] {
        let endpoint = TokenEndpoint {
            url: url(&world.public_endpoint()),
            client_id: "admin".to_owned(),
            scope: "https://directory.example/.default".to_owned(),
        };
        let credential = Credential::ClientCertificate {
            endpoint,
            certificate: certificate_file.clone(),
            key: key_file.clone(),
            style,
            send_chain: true,
        };
        let client = Client::new(&directory, credential, Some(ca.clone()), Limits::default());
        let client = client.expect("a client");
        let domain = world.gateway.domain(SubjectField::SanUri);
        let body = world.gateway.world.configuration(domain);
        let made = client.call(Method::POST, "", Some(&body), None).await.expect("made");
        let id = made["id"].as_str().expect("an id");
        assert!(client.objects().await.expect("a list").iter().any(|o| o["id"] == id));
        client.call(Method::DELETE, id, None, None).await.expect("removed");
    }
    // The command line does the same with a certificate, to which its token is bound.
    let keeper = world.issuers[0].client(&subject("keeper"), now()).expect("a certificate");
    std::fs::write(dir.join("keeper.pem"), &keeper.chain_pem).expect("written");
    std::fs::write(dir.join("keeper.key"), &*keeper.key_pem).expect("written");
    let at = dir.display();
    let line = format!(
        "directory --url {directory} --ca-bundle {at}/pki/server-root.pem --client-id keeper \
         --token-url https://localhost:{}/oauth2/token --scope https://directory.example/.default \
         --client-certificate {at}/keeper.pem --client-key {at}/keeper.key",
        world.gateway.app.addresses.token.unwrap().port()
    );
    let (code, output) = world.gateway.program(&format!("{line} application list")).await;
    assert!(code == Some(0) && output.contains(&world.ids[1]), "{output}");
    let (code, output) = world.gateway.program(&format!("{line} list")).await;
    assert!(code == Some(1) && output.contains("403 Authorization_RequestDenied"), "{output}");

    // A token for another audience is rejected by the directory.
    let (_, answer) = world.ask(&world.assertion()).await;
    let other_audience = answer["access_token"].as_str().expect("a token");
    let answer = world
        .gateway
        .http
        .get(world.gateway.directory(""))
        .bearer_auth(other_audience)
        .send()
        .await;
    assert_eq!(answer.expect("an answer").status(), 401);
}

/// PEM of a certificate chain from `issuer` for a new RSA key, and of the key.
fn rsa(issuer: &Authority, name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let of_issuer = rcgen::KeyPair::from_pem(&issuer.key_pem()).expect("a key");
    let signer = rcgen::Issuer::from_ca_cert_pem(&issuer.certificate_pem(), of_issuer);
    let leaf = params.signed_by(&key, &signer.expect("an issuer")).expect("a certificate");
    (leaf.pem() + &issuer.chain_pem, key.serialize_pem())
}
