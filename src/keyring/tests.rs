use super::*;
use std::os::unix::fs::PermissionsExt as _;

use crate::runtime::health::Ready;

pub(super) fn config(dir: &Path) -> Config {
    Config {
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
        signing_key: dir.join("state/signing.pem"),
        signs: true,
        algorithm: Algorithm::Es256,
        generate_signing_key: true,
        rotation: None,
        published_keys: Vec::new(),
        ticket_keys: Vec::new(),
        file_modes: FileModes::Loopback,
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[test]
fn generates_the_signing_key_once() {
    for algorithm in Algorithm::ALL {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { algorithm, ..config(dir.path()) };
        let first = signing_keys(&config).expect("generated");
        let again = signing_keys(&config).expect("read");
        assert_eq!(first.current().kid(), again.current().kid());
        let mode = fs::metadata(&config.signing_key).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn publishes_and_writes_no_key_if_nothing_is_signed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { signs: false, ..config(dir.path()) };
    let keys = signing_keys(&config).expect("no file is needed");
    assert_eq!((&**keys.jwks(), keys.list().count()), (r#"{"keys":[]}"#, 0));
    assert!(!config.signing_key.exists());
}

#[test]
fn does_not_generate_a_configured_signing_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { generate_signing_key: false, ..config(dir.path()) };
    assert!(matches!(signing_keys(&config), Err(KeyringError::Read(_))));
}

#[test]
fn reports_a_damaged_signing_key_and_keeps_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    fs::create_dir_all(dir.path().join("state")).expect("made");
    fs::write(&config.signing_key, "not a key").expect("written");
    assert!(matches!(signing_keys(&config), Err(KeyringError::Contents { .. })));
    assert_eq!(fs::read(&config.signing_key).expect("there"), b"not a key");
}

#[test]
fn rejects_the_key_of_another_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let (a, b) = (pair(), pair());
    fs::write(&config.certificate, a.cert.pem()).expect("written");
    fs::write(&config.key, a.signing_key.serialize_pem()).expect("written");
    assert!(identity(&config, &provider()).is_ok());
    fs::write(&config.key, b.signing_key.serialize_pem()).expect("written");
    let error = identity(&config, &provider()).expect_err("not its key").to_string();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let expected = format!(
        "tls.key: {}: does not belong to the first certificate of {}",
        path("server.key"),
        path("server.pem")
    );
    assert_eq!(error, expected);
    let mut issuer = rcgen::CertificateParams::new(Vec::new()).expect("params");
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = issuer.self_signed(&b.signing_key).expect("a certificate").pem();
    fs::write(&config.certificate, issuer + &a.cert.pem()).expect("written");
    fs::write(&config.key, a.signing_key.serialize_pem()).expect("written");
    let error = identity(&config, &provider()).expect_err("wrong order").to_string();
    let expected = format!("tls.certificate: {}: the first certificate is `", path("server.pem"));
    assert!(error.starts_with(&expected) && error.contains("an authority"), "{error}");
}

#[test]
fn rejects_a_key_file_that_others_can_read_or_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = Config { file_modes: FileModes::Strict, ..config(dir.path()) };
    signing_keys(&config).expect("generated");
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(&config.signing_key, permissions).expect("changed");
    };
    mode(0o666);
    let error = signing_keys(&config).expect_err("writable").to_string();
    assert!(error.contains("mode 0666") && error.contains("chmod 600"), "{error}");
    mode(0o644);
    assert!(matches!(signing_keys(&config), Err(KeyringError::Mode(_))), "readable");
    mode(0o640);
    assert!(signing_keys(&config).is_ok(), "mounts give access through a group");
    mode(0o666);
    config.file_modes = FileModes::Unchecked;
    assert!(signing_keys(&config).is_ok());
}

/// A configured key may be a link, as in a mounted secret.
#[test]
fn a_generated_signing_key_is_not_read_through_a_link() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    signing_keys(&config).expect("generated");
    let other = dir.path().join("other.pem");
    fs::rename(&config.signing_key, &other).expect("moved");
    std::os::unix::fs::symlink(&other, &config.signing_key).expect("linked");
    let error = signing_keys(&config).expect_err("a link").to_string();
    assert!(error.contains("signing.pem: a symbolic link is not followed"), "{error}");
    let configured = Config { generate_signing_key: false, ..config };
    assert!(signing_keys(&configured).is_ok());
}

#[test]
fn removes_only_its_own_temporary_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    signing_keys(&config).expect("generated");
    let folder = dir.path().join("state");
    for name in ["signing.4711.new", "signing.x.new", "signing.pem.new", "other.1.new"] {
        fs::write(folder.join(name), "x").expect("written");
    }
    remove_temporary_files(&config);
    let mut left: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    left.sort();
    assert_eq!(left, ["other.1.new", "signing.pem", "signing.pem.new", "signing.x.new"]);
}

#[tokio::test(start_paused = true)]
async fn writes_a_lost_signing_key_back_and_never_replaces_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let pem = || fs::read(&config.signing_key);
    signing_keys(&config).expect("generated");
    let before = pem().expect("there");
    let (sender, mut changes) = tokio::sync::mpsc::channel(4);
    let every = std::time::Duration::from_secs(10);
    let ready = Ready::default();
    let (provider, check) = (Arc::new(provider()), Arc::default());
    tokio::spawn(watch(config.clone(), provider, every, check, ready.clone(), sender));
    tokio::time::sleep(every / 2).await;
    fs::remove_file(&config.signing_key).expect("removed");
    tokio::time::sleep(every).await;
    assert_eq!(pem().expect("written back"), before);
    assert!(changes.try_recv().is_err(), "the same key");
    fs::remove_dir_all(dir.path().join("state")).expect("removed");
    tokio::time::sleep(every * 2).await;
    assert!(pem().is_err(), "a deleted directory is not created again");
    assert!(ready.warnings()["signing_key"].contains("stays in use"));
    assert!(changes.try_recv().is_err(), "no new key in its place");
}

#[tokio::test(start_paused = true)]
async fn publishes_a_replaced_key_until_its_tokens_have_expired() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let first = signing_keys(&config).expect("generated").current().kid().to_owned();
    let (sender, mut changes) = tokio::sync::mpsc::channel(4);
    let every = std::time::Duration::from_secs(10);
    let (provider, check) = (Arc::new(provider()), Arc::default());
    tokio::spawn(watch(config.clone(), provider, every, check, Ready::default(), sender));
    tokio::time::sleep(every / 2).await;
    let other = dir.path().join("other.pem");
    generate_signing_key(&other, Algorithm::Es256).expect("generated");
    fs::rename(&other, &config.signing_key).expect("replaced");
    let Some(Change::SigningKeys(keys)) = changes.recv().await else { panic!("a change") };
    assert_ne!(keys.current().kid(), first);
    assert!(keys.jwks().contains(&first), "its tokens are still valid");
    let Some(Change::SigningKeys(keys)) = changes.recv().await else { panic!("a change") };
    assert!(!keys.jwks().contains(&first), "its last token has expired");
}

#[tokio::test(start_paused = true)]
async fn keeps_a_valid_certificate_instead_of_an_expired_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let write = |until: (i32, u8)| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params =
            rcgen::CertificateParams::new(vec!["gw.example".to_owned()]).expect("params");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(&config.certificate, certificate.pem()).expect("written");
        fs::write(&config.key, key.serialize_pem()).expect("written");
    };
    write((2999, 1));
    let (sender, mut changes) = tokio::sync::mpsc::channel(4);
    let every = std::time::Duration::from_secs(10);
    let ready = Ready::default();
    let (provider, check) = (Arc::new(provider()), Arc::default());
    tokio::spawn(watch(config.clone(), provider, every, check, ready.clone(), sender));
    tokio::time::sleep(every / 2).await;
    write((2002, 1));
    tokio::time::sleep(every).await;
    assert!(changes.try_recv().is_err(), "the valid one stays in use");
    let warning = ready.warnings()["server_certificate"].clone();
    assert!(warning.contains("expired") && warning.contains("stays in use"), "{warning}");
    write((2998, 1));
    assert!(matches!(changes.recv().await, Some(Change::Identity(_))));
    assert!(ready.warnings().is_empty());
}

#[test]
fn rejects_a_short_ticket_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tickets");
    let config = Config { ticket_keys: vec![file.clone()], ..config(dir.path()) };
    let secrets = || ticket_secrets(&config).map(|secrets| secrets[0].len());
    assert!(matches!(secrets(), Err(KeyringError::Read(_))));
    fs::write(&file, [7; MIN_SECRET - 1]).expect("written");
    let error = secrets().expect_err("too short").to_string();
    assert!(error.contains("31 bytes; at least 32"), "{error}");
    fs::write(&file, [7; MIN_SECRET]).expect("written");
    assert_eq!(secrets().expect("long enough"), MIN_SECRET);
}

#[tokio::test(start_paused = true)]
async fn reports_a_changed_file_and_skips_an_invalid_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let first = signing_keys(&config).expect("generated").current().kid().to_owned();
    let (sender, mut changes) = tokio::sync::mpsc::channel(4);
    let every = std::time::Duration::from_secs(10);
    let (check_now, ready) = (Arc::default(), Ready::default());
    tokio::spawn(watch(config.clone(), Arc::new(provider()), every, check_now, ready, sender));
    tokio::time::sleep(every / 2).await;
    fs::write(&config.signing_key, "not a key").expect("written");
    tokio::time::sleep(every).await;
    fs::remove_file(&config.signing_key).expect("removed");
    generate_signing_key(&config.signing_key, Algorithm::Es256).expect("generated");
    match changes.recv().await {
        Some(Change::SigningKeys(keys)) => assert_ne!(keys.current().kid(), first),
        _ => panic!("another change"),
    }
    assert!(changes.try_recv().is_err(), "the invalid file was reported as a change");
}
