//! The example of the README: the configurations of a directory in a file, and a certificate judged by them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::Domain;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::process::{Running, SOON, anchorgate, text, world};

/// The commands of the README's example.
fn example() -> &'static str {
    let readme = include_str!("../../README.md");
    let section = readme.split("### Judge a certificate offline").nth(1).expect("the section");
    let block = section.split("```sh\n").nth(1).expect("its commands");
    block.split("```").next().expect("their end")
}

/// The command line of the directory at `url`.
fn directory(url: &str, token: &str, args: &[&str]) -> Output {
    let access = ["directory", "--url", url, "--token-file", token];
    anchorgate(&[&access[..], args].concat())
}

/// A list in PEM with 100 MiB of text before it.
fn large_list(der: &Path) -> Vec<u8> {
    let line = [&[b'#'; 1023][..], b"\n"].concat();
    let list = STANDARD.encode(std::fs::read(der).expect("a list"));
    let pem = format!("-----BEGIN X509 CRL-----\n{list}\n-----END X509 CRL-----\n");
    [line.repeat(100 * 1024), pem.into_bytes()].concat()
}

#[test]
fn the_list_of_a_real_directory_judges_a_certificate() {
    let (dir, world, file) = world();
    let _gateway = Running::start(&world, &file);
    let url = format!("http://{}", world.ports.directory_http);
    let token = dir.path().join("token");
    std::fs::write(&token, &world.directory_token).expect("written");
    let token = token.to_str().expect("UTF-8");
    let here = |name: &str| world.dir.join(name);

    let list = directory(&url, token, &["list"]);
    assert_eq!((list.status.code(), &list.stdout[..]), (Some(0), &b""[..]), "{list:?}");
    assert_eq!(text(&list.stderr), "no configurations\n");
    let Domain { slug, field, .. } = &world.domains[0];
    let ca = |kind: &str| {
        let crl = format!("crl=http://{}/{slug}-{kind}.crl", world.ports.crl);
        format!("{},{crl}", here(&format!("pki/{slug}-{kind}.pem")).display())
    };
    let created = directory(
        &url,
        token,
        &[
            "create",
            "--name",
            "a",
            "--field",
            field.as_str(),
            "--ca",
            &ca("root"),
            "--ca",
            &ca("issuer"),
        ],
    );
    assert!(created.status.success() && created.stderr.is_empty(), "{created:?}");

    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("made");
    let copy = |from: &str, to: &str| {
        std::fs::copy(here(from), work.join(to)).expect("copied");
    };
    copy(&format!("pki/{}-chain.pem", world.domains[0].devices[0].name), "device.pem");
    copy(&format!("crl/{slug}-root.crl"), "root.crl");
    copy(&format!("crl/{slug}-issuer.crl"), "issuer.crl");
    let program = Path::new(env!("CARGO_BIN_EXE_anchorgate")).parent().expect("a folder");
    let output = Command::new("bash")
        .args(["-euc", example()])
        .current_dir(&work)
        .env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").expect("a path")))
        .env("ANCHORGATE_DIRECTORY", &url)
        .env("ANCHORGATE_DIRECTORY_TOKEN_FILE", token)
        .output()
        .expect("bash runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let accepted = text(&output.stdout);
    assert!(accepted.starts_with("accept\n"), "{accepted}");
    assert!(accepted.contains(&world.domains[0].devices[0].subject_id), "{accepted}");

    // The list response itself is accepted too, and a message names the file and the list.
    let list = std::fs::read_to_string(work.join("configurations.json")).expect("written");
    let judge = |directory: &str, crl: &str| {
        std::fs::write(work.join("d.json"), directory).expect("written");
        let path = |name: &str| work.join(name).display().to_string();
        anchorgate(&[
            "verify",
            "--directory",
            &path("d.json"),
            "--chain",
            &path("device.pem"),
            "--crl",
            &path("root.crl"),
            "--crl",
            &path(crl),
        ])
    };
    assert_eq!(judge(&format!("{{\"value\":{list}}}"), "issuer.crl").status.code(), Some(0));
    let refused = judge(&list, "device.pem");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let why = "device.pem: not a revocation list: it contains CERTIFICATE";
    assert!(text(&refused.stderr).contains(why), "{refused:?}");
    std::fs::write(work.join("cut.crl"), b"\x30\x82\x01\x00").expect("written");
    let refused = judge(&list, "cut.crl");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let stdout = text(&refused.stdout);
    assert!(stdout.contains("list not used: ") && stdout.contains("cut.crl: "), "{refused:?}");
    let devices = judge(r#"[{"id":"1","accountEnabled":true,"physicalIds":[]}]"#, "issuer.crl");
    assert_eq!(devices.status.code(), Some(2), "{devices:?}");
    let why = "d.json: a list of devices, not of trust configurations";
    assert!(text(&devices.stderr).contains(why), "{devices:?}");
    // Text before a list in PEM counts towards its size.  The gateway's own limit is smaller.
    std::fs::write(work.join("large.crl"), large_list(&here(&format!("crl/{slug}-issuer.crl"))))
        .expect("written");
    let large = judge(&list, "large.crl");
    assert_eq!(large.status.code(), Some(0), "{large:?}");
    let unusable = judge("[7]", "issuer.crl");
    assert_eq!(unusable.status.code(), Some(2), "{unusable:?}");
    assert!(text(&unusable.stderr).contains("d.json: "), "{unusable:?}");
}

#[test]
fn the_directory_commands_warn_of_a_shared_authority_and_name_the_bundle() {
    let (dir, world, file) = world();
    let gateway = Running::start(&world, &file);
    let token = dir.path().join("token");
    std::fs::write(&token, &world.directory_token).expect("written");
    let token = token.to_str().expect("UTF-8");
    let url = format!("https://localhost:{}", world.ports.directory.port());
    let pem = |name: &str| world.dir.join(format!("pki/{name}.pem")).display().to_string();
    let run = |bundle: &str, args: &[&str]| {
        directory(&url, token, &[&["--ca-bundle", &pem(bundle)], args].concat())
    };
    let ca = format!("{},crl=http://127.0.0.1:9/absent.crl", pem("dn-root"));
    let create = |name| {
        let field = "tls_client_auth_subject_dn";
        run("server-root", &["create", "--name", name, "--field", field, "--ca", &ca])
    };
    let (first, second) = (create("first"), create("second"));
    assert!(first.status.success() && first.stderr.is_empty(), "{first:?}");
    assert!(second.status.success(), "a warning does not prevent it: {second:?}");
    let warning = text(&second.stderr);
    let id = text(&first.stdout).split(' ').next().expect("an id").to_owned();
    assert!(warning.contains(&id) && warning.contains("`first`"), "{warning}");
    assert!(warning.contains("configuration_ambiguous"), "{warning}");

    let wrong = run("dn-root", &["list"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("in --ca-bundle of a command"), "{wrong:?}");

    // The gateway names the authority whose list it does not have.
    let start = Instant::now();
    let admin = format!("http://{}", world.ports.admin);
    loop {
        let ready = anchorgate(&["ready", "--admin", &admin]);
        let printed = text(&ready.stdout);
        if printed.contains(
            "no revocation list yet: CN=Quickstart dn Root,O=Quickstart, from http://127.0.0.1:9/",
        ) {
            break;
        }
        assert!(start.elapsed() < SOON, "{printed}: {}", gateway.get("/readyz"));
        std::thread::sleep(Duration::from_millis(50));
    }
}
