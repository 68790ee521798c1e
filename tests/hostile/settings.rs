//! Settings that would send a secret, or take a key, over a network in the clear.

use std::process::Command;

use anchorgate::cli::quickstart::world::{Ports, World};

#[test]
fn rejects_plain_http_for_secrets_and_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = std::time::SystemTime::now().into();
    let world = World::create(&dir.path().join("w"), Ports::free().expect("ports"), now);
    let world = world.expect("a world");
    let good = std::fs::read_to_string(world.dir.join("anchorgate.toml")).expect("written");
    let file = world.dir.join("edited.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        let output = command.args(["check-config", "--config"]).arg(&file).output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&good).0, Some(0));
    let directory = format!("url = \"http://{}\"", world.ports.directory_http);
    let token = format!("token = \"{}\"", world.directory_token);
    for host in
        ["idp.example", "127.0.0.1.idp.example", "localhost.idp.example", "10.0.0.1", "[fe80::1]"]
    {
        let credential = format!(
            "token_url = \"http://{host}/t\"\nclient_id = \"x\"\nclient_secret = \"s\"\nscope = \"y\""
        );
        let issuer = format!(
            "[[directory.issuers]]\nissuer = \"https://idp.example\"\naudiences = [\"x\"]\n\
             jwks_url = \"http://{host}/jwks\"\n[[graph]]"
        );
        for (old, new, key) in [
            (&*directory, format!("url = \"http://{host}\""), "graph[0].url"),
            (&*token, credential, "graph[0].credential.token_url"),
            ("[[graph]]", issuer, "directory.issuers[0].jwks_url"),
        ] {
            let edited = good.replace(old, &new);
            assert_ne!(edited, good, "{key}");
            let (code, error) = check(&edited);
            assert_eq!(code, Some(78), "{key} {host}: {error}");
            assert!(
                error.contains(&format!("{key}: ")) && error.contains("https"),
                "{key} {host}: {error}"
            );
        }
    }
}
