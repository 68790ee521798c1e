//! Failures of the directory.

use super::*;

/// A directory that permits reading only one collection does not block the trust of that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_collection_does_not_block_the_other() {
    const CLIENT: &str = "\n[[client]]\nid = 'service'\napplication_configuration = 'x'\n\
                          token_endpoint_auth_method = 'tls_client_auth'\n\
                          subject_field = 'tls_client_auth_san_dns'\nsubjects = ['s.example']\n";
    const APPLICATIONS: &str = ", \"AppCertTrustConfiguration.ReadWrite.All\"";
    let devices_only = |text: String| text.replace(APPLICATIONS, "") + CLIENT;
    let gateway = Gateway::start(&[SubjectField::SanDns], devices_only).await;
    gateway.until_ready().await;
    let source = gateway.source("quickstart/applications").await;
    assert!(source["last_success"].is_null(), "{source}");
    assert!(source["last_error"].as_str().is_some_and(|e| e.contains("403")), "{source}");
    assert!(gateway.source("quickstart").await["last_error"].is_null());
    let service = Authority::root("R", now()).expect("a root");
    let service = service.client(&subject("s"), now()).expect("a certificate");
    let device = gateway.device_of(&service.chain_pem, &service.key_pem);
    let outcome = async {
        device.connect(gateway.app.addresses.token.unwrap()).await?.token("service").await
    };
    assert!(
        outcome.await.is_err(),
        "the handshake is rejected while the configurations are unknown"
    );

    // The reverse: applications are served while the device configurations cannot be read.
    let world = Applications::start().await;
    let Applications { mut gateway, service, .. } = world;
    let file = gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let text = text.replace("\"MutualTlsOauthConfiguration.ReadWrite.All\", ", "");
    std::fs::write(&file, text).expect("written");
    assert!(gateway.app.stop().await);
    // Removes the saved state, so that everything is fetched again.
    for name in ["trust-quickstart.state", "trust-quickstart.applications.state"] {
        std::fs::remove_file(gateway.world.dir.join("data").join(name)).expect("it was there");
    }
    for entry in std::fs::read_dir(gateway.world.dir.join("data")).expect("there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("trust-") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    gateway.app = App::start(config).await.expect("started");
    let device = gateway.device_of(&service.chain_pem, &service.key_pem);
    let start = Instant::now();
    loop {
        let asked = async {
            device.connect(gateway.app.addresses.token.unwrap()).await?.token("service").await
        };
        match asked.await {
            Ok(answer) if answer.status == 200 => break,
            other => assert!(start.elapsed() < IN_FORCE, "not served: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gateway.source("quickstart").await["last_success"].is_null());
    assert_eq!(gateway.admin("/readyz").await.0, 503, "devices are not served yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_directory_serves_applications_from_disk() {
    let world = Applications::start_with(UNBOUND, |text| text).await;
    let file = world.gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let (head, rest) = text.split_once("[directory]").expect("a directory");
    let (_, tail) = rest.split_once("# The gateway syncs").expect("a source");
    std::fs::write(&file, format!("{head}#{tail}")).expect("written");
    let Applications { mut gateway, roots, issuers, ids, script, service } = world;
    assert!(gateway.app.stop().await);
    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    gateway.app = App::start(config).await.expect("started");
    let world = Applications { gateway, roots, issuers, ids, script, service };
    world.in_force(2).await;
    assert_eq!(world.ask(&world.assertion()).await.0, 200);
    let answer = world.ask_with(&world.service, &[("client_id", "service")]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(world.gateway.source("quickstart/applications").await["from_disk"], true);
}
