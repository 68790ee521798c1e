//! Commands that help an operator with a running gateway.

use anchorgate::trust::subject::SubjectField;
use serde_json::Value;

use super::Gateway;

#[tokio::test(flavor = "multi_thread")]
async fn the_support_bundle_has_everything_except_secrets() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let file = gateway.world.dir.join("bundle.json");
    let config = gateway.world.dir.join("anchorgate.toml");
    let words = format!("support-bundle {} --config {}", file.display(), config.display());
    let (code, text) = gateway.program(&words).await;
    assert_eq!(code, Some(0), "{text}");
    let text = std::fs::read_to_string(&file).expect("written");
    let bundle: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bundle["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(bundle["configuration"]["graph[quickstart].every"], "2s");
    assert_eq!(bundle["configuration"]["graph[quickstart].credential.token"], "(not shown)");
    assert!(bundle["status"]["trust"]["configurations"][0]["id"].is_string(), "{bundle:#}");
    assert!(bundle["metrics"].as_str().is_some_and(|m| m.contains("anchorgate_trust_generation")));
    assert!(!text.contains(&gateway.world.directory_token), "the bundle contains a secret");
    assert!(!text.contains("PRIVATE KEY"));
    let (code, text) = gateway.program(&words).await;
    assert!(code == Some(1) && text.contains("cannot create"), "never replaces a file: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_a_gateway_lacks() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let config = gateway.world.dir.join("anchorgate.toml");
    let ca = gateway.world.dir.join("pki/server-root.pem");
    let public = format!("https://localhost:{}", gateway.app.addresses.public.unwrap().port());
    let words = format!(
        "doctor --config {} --replica {public} --replica {public}/ --ca-bundle {} --output json",
        config.display(),
        ca.display()
    );
    let (code, text) = gateway.program(&words).await;
    assert_eq!(code, Some(0), "{text}");
    let findings: Value = serde_json::from_str(&text).expect("JSON");
    let verdict = |part: &str| {
        let found = findings
            .as_array()
            .expect("findings")
            .iter()
            .find(|finding| finding["check"].as_str().expect("a text").contains(part));
        found.map_or("absent", |finding| finding["verdict"].as_str().expect("a text"))
    };
    assert_eq!(verdict("configuration"), "good");
    assert_eq!(verdict("mutualTlsOauthConfigurations"), "good", "{findings:#}");
    assert_eq!(verdict("revocation list"), "good");
    assert_eq!(verdict("signing keys of"), "good");
    assert_eq!(verdict("token.listen"), "good", "the running gateway uses the port");

    // The credential is wrong, and a list cannot be fetched.
    let text = std::fs::read_to_string(&config).expect("written");
    let wrong = gateway.world.dir.join("wrong.toml");
    let text = text.replace(&gateway.world.directory_token, "another token");
    std::fs::write(&wrong, text).expect("written");
    let (code, text) = gateway.program(&format!("doctor --config {}", wrong.display())).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAILED   directory quickstart"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_print_yaml_and_explain_a_certificate() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let (code, text) = gateway.program("trust show --output yaml").await;
    assert!(code == Some(0) && text.contains("\"trust\":\n  \"applicationConf"), "{text}");
    let (code, text) = gateway.program("keys list --output json").await;
    let keys: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &keys[0]["state"]), (Some(0), &Value::from("signs")));
    let chain = gateway.world.dir.join("pki/ip-1-chain.pem");
    let (code, text) = gateway.program(&format!("explain --chain {}", chain.display())).await;
    assert!(code == Some(1) && text.contains("chain_untrusted"), "{text}");
}
