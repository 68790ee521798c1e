//! The program as a process: output, exit codes and signals.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anchorgate::cli::quickstart::world::Ports;

use crate::process::{Running, SOON, anchorgate, answers, pending_request, text, world};

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("there");
    assert!(text.contains(from), "`{from}` is not in {text}");
    std::fs::write(file, text.replace(from, to)).expect("written");
}

fn check(file: &Path) -> Output {
    anchorgate(&["check-config", "--config", file.to_str().expect("UTF-8")])
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    for args in
        [&[][..], &["fly"], &["run"], &["check-config", "--confg", "x"], &["verify", "--at"]]
    {
        let output = anchorgate(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains("--help"), "{args:?}: {output:?}");
    }
    for args in
        [&["--help"][..], &["run", "--help"], &["help", "verify"], &["version"], &["--version"]]
    {
        let output = anchorgate(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn variables_do_not_change_usage_and_may_be_empty() {
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command.args(args).envs(variables.iter().copied()).output().expect("it runs")
    };
    let approve = run(&["trust", "approve"], &[("ANCHORGATE_ADMIN", "/run/a.sock")]);
    assert_eq!(approve.status.code(), Some(64), "{approve:?}");
    let stderr = text(&approve.stderr);
    assert!(stderr.contains("--digest <HEX>") && !stderr.contains("--admin"), "{stderr}");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("a.sock");
    let socket = socket.to_str().expect("UTF-8");
    let empty = [("ANCHORGATE_ADMIN_TOKEN_FILE", ""), ("ANCHORGATE_ADMIN_CA_BUNDLE", "")];
    let ready = run(&["ready", "--admin", socket], &empty);
    assert_eq!(ready.status.code(), Some(1), "{ready:?}");
    let expected = format!("no response from a gateway at unix:{socket}: No such file");
    assert!(text(&ready.stderr).contains(&expected), "{ready:?}");
    assert!(!text(&ready.stderr).contains("error sending request"), "{ready:?}");
    let ready = run(&["ready"], &[("ANCHORGATE_ADMIN", "")]);
    assert!(text(&ready.stderr).contains("unix:/var/lib/anchorgate/admin.sock"), "{ready:?}");
}

#[test]
fn a_closed_output_ends_the_program_quietly() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
        .arg("version")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("it runs");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), String::new()));
}

#[test]
fn a_busy_gateway_fails_the_command() {
    let at = answers("503 Service Unavailable", "{\"error\":\"busy\"}");
    for command in [["crl", "refresh"], ["crl", "show"], ["trust", "sync"], ["trust", "show"]] {
        let output = anchorgate(&[command[0], command[1], "--admin", &at]);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        assert!(text(&output.stderr).contains("503"), "{command:?}: {output:?}");
    }
    let output = anchorgate(&["ready", "--admin", &at]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_directory_that_did_not_answer_fails_the_sync() {
    for (answer, exit) in [
        ("{\"hub\":{\"changes\":{}}}", 0),
        ("{\"hub\":{\"changes\":{},\"devices\":{}}}", 0),
        ("{}", 0),
        ("{\"hub\":{\"error\":\"no route\"},\"other\":{\"changes\":{}}}", 1),
        ("{\"hub\":{\"changes\":{},\"devicesError\":\"no route\"}}", 1),
    ] {
        let output = anchorgate(&["trust", "sync", "--admin", &answers("200 OK", answer)]);
        assert_eq!(output.status.code(), Some(exit), "{answer}: {output:?}");
    }
}

#[test]
fn check_config_reports_every_problem_and_exits_with_78() {
    let (_dir, _world, file) = world();
    let good = check(&file);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let stdout = text(&good.stdout);
    // The numbers depend on the limit on open files.
    assert!(stdout.starts_with("connections: token "), "{stdout}");
    assert!(stdout.ends_with("\nno problem found\n"), "{stdout}");

    edit(&file, "[token]", "[token]\nconnections = 0\nspelt = 1");
    edit(&file, "token_lifetime = \"5m\"", "token_lifetime = \"2d\"");
    let bad = check(&file);
    assert_eq!(bad.status.code(), Some(78), "{bad:?}");
    let stderr = text(&bad.stderr);
    for line in [
        "3 problem(s)",
        "token.connections: `0` is not allowed; it must be a whole number from 1 to 1000000",
        "token.spelt: unknown key",
        "oauth.token_lifetime: `\"2d\"` is not allowed; it must be a duration",
    ] {
        assert!(stderr.contains(line), "{line} is not in {stderr}");
    }
    assert!(bad.stdout.is_empty());
}

#[test]
fn an_invalid_configuration_file_exits_with_78() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("x.toml");
    let deep = format!("a = {}", "[".repeat(100_000));
    for (contents, stderr) in [
        (&b"data_dir = "[..], "x.toml"),
        (b"\xff\xfe", "not UTF-8"),
        (deep.as_bytes(), "x.toml"),
        (&vec![b'#'; 5 * 1024 * 1024], "longer than 4194304 bytes"),
    ] {
        std::fs::write(&file, contents).expect("written");
        let output = check(&file);
        assert_eq!(output.status.code(), Some(78), "{stderr}: {output:?}");
        assert!(text(&output.stderr).contains(stderr), "{stderr}: {output:?}");
    }
    let missing = check(&dir.path().join("none.toml"));
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("none.toml"), "{missing:?}");
}

#[test]
fn check_config_reads_keys_and_creates_none() {
    let (_dir, world, file) = world();
    let key = world.dir.join("pki/server.key");
    std::fs::write(&key, &world.domains[0].devices[0].identity.key_pem).expect("written");
    let output = check(&file);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(
        text(&output.stderr).contains("server.key: does not belong to the first"),
        "{output:?}"
    );
    assert!(!world.dir.join("data").exists(), "check-config created the data folder");
}

#[test]
fn a_secret_that_all_users_can_read_is_refused_beyond_this_machine() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, world, file) = world();
    let key = world.dir.join("pki/server.key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode));
    let fault = "server.key: all users can read this file with a secret (mode 0644)";
    let command = |name: &str, more: &[&str]| {
        let output =
            anchorgate(&[&[name, "--config", file.to_str().expect("UTF-8")], more].concat());
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let has = |(status, output): (Option<i32>, String), expected: i32, line: &str| {
        assert_eq!(status, Some(expected), "{output}");
        assert!(output.contains(line), "`{line}` is not in {output}");
    };
    mode(0o644).expect("changed");
    has(command("check-config", &[]), 0, "warning: ");
    has(command("check-config", &[]), 0, fault);
    let port = world.ports.token.port();
    edit(&file, &format!("\"127.0.0.1:{port}\""), &format!("\"0.0.0.0:{port}\""));
    has(command("check-config", &[]), 78, fault);
    has(command("doctor", &[]), 1, fault);
    let mut refused = Running::spawn(&world, &file, Stdio::piped());
    assert_eq!(refused.ends(), Some(78));
    let mut printed = String::new();
    let stderr = refused.process.stderr.as_mut().expect("piped");
    stderr.read_to_string(&mut printed).expect("UTF-8");
    assert!(printed.contains(fault) && !printed.contains("listening"), "{printed}");
    has(command("check-config", &["--allow-insecure-file-modes"]), 0, fault);
    // A mount gives access through a group.
    mode(0o440).expect("changed");
    let (status, output) = command("check-config", &[]);
    assert!(status == Some(0) && !output.contains("server.key"), "{output}");
}

#[test]
fn check_config_reports_every_file_and_what_run_would_refuse() {
    let (dir, world, file) = world();
    let absent = dir.path().join("absent");
    let keys = format!("[tls]\nticket_keys = [\"{0}-a\", \"{0}-b\"]", absent.display());
    edit(&file, "[tls]", &keys);
    for name in ["pki/server.key", "pki/server.pem"] {
        std::fs::write(world.dir.join(name), "not PEM").expect("written");
    }
    let not_a_folder = world.dir.join("pki/server.pem/data");
    let text_of = std::fs::read_to_string(&file).expect("there");
    let data_dir = text_of.lines().find(|line| line.starts_with("data_dir")).expect("a setting");
    edit(&file, data_dir, &format!("data_dir = \"{}\"", not_a_folder.display()));
    let output = check(&file);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let stderr = text(&output.stderr);
    let expected = [
        "server.pem: ",
        "server.key: ",
        "absent-a: ",
        "absent-b: ",
        "server.pem/data` cannot be created",
    ];
    for words in expected {
        assert!(stderr.contains(words), "{words} is not in {stderr}");
    }
    assert_eq!(stderr.lines().count(), expected.len(), "one message for each cause: {stderr}");
}

/// A problem of the file hides none of the files that it names, as long as their keys can be read.
#[test]
fn check_config_reports_files_together_with_wrong_settings() {
    let (_dir, world, file) = world();
    edit(&file, "[token]", "[token]\nspelt = 1");
    for name in ["pki/server.key", "pki/server.pem"] {
        std::fs::remove_file(world.dir.join(name)).expect("removed");
    }
    let output = check(&file);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let stderr = text(&output.stderr);
    for words in ["token.spelt: unknown key", "server.pem: ", "server.key: "] {
        assert!(stderr.contains(words), "{words} is not in {stderr}");
    }
    assert!(!stderr.contains("were not checked"), "{stderr}");
    edit(&file, "data_dir", "data-dir");
    let stderr = text(&check(&file).stderr);
    assert!(stderr.contains("data-dir: unknown key; did you mean `data_dir`?"), "{stderr}");
    assert!(stderr.ends_with("Key files were not checked; correct these first.\n"), "{stderr}");
}

#[test]
fn an_expired_server_certificate_is_a_warning_and_fails_the_doctor() {
    let (_dir, world, file) = world();
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).expect("params");
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(world.dir.join("pki/server.pem"), certificate.pem()).expect("written");
    std::fs::write(world.dir.join("pki/server.key"), key.serialize_pem()).expect("written");
    let output = check(&file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(stdout.contains("server.pem: it expired at 2002-01-01T00:00:00Z, "), "{stdout}");
    assert!(stdout.contains(" days ago; every client will refuse it\n"), "{stdout}");
    assert!(stdout.ends_with(" no error\n") && !stdout.contains("no problem found"), "{stdout}");
    let doctor = anchorgate(&["doctor", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let failed = "FAILED   server certificate: it expired at";
    assert!(text(&doctor.stdout).contains(failed), "{doctor:?}");
}

#[test]
fn a_failed_start_exits_with_1_and_the_reason() {
    let (_dir, world, file) = world();
    let run = || anchorgate(&["run", "--config", file.to_str().expect("UTF-8")]);
    let taken = TcpListener::bind(world.ports.public).expect("free until now");
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = format!("public.listen: cannot listen on {}", world.ports.public);
    assert_eq!(text(&output.stderr).matches(&stderr).count(), 1, "{output:?}");
    drop(taken);

    std::fs::rename(world.dir.join("pki/server.key"), world.dir.join("moved")).expect("moved");
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("server.key"), "{output:?}");
}

#[test]
fn a_running_gateway_locks_its_directory_and_handles_signals() {
    let (dir, world, file) = world();
    let mut gateway = Running::start(&world, &file);

    // A second gateway on the same data directory, with other ports.
    let other = dir.path().join("other.toml");
    let mut text_of = std::fs::read_to_string(&file).expect("there");
    let ports = Ports::free().expect("ports");
    for (old, new) in [
        (world.ports.token, ports.token),
        (world.ports.public, ports.public),
        (world.ports.directory, ports.directory),
        (world.ports.directory_http, ports.directory_http),
        (world.ports.admin, ports.admin),
    ] {
        text_of = text_of.replace(&old.to_string(), &new.to_string());
    }
    std::fs::write(&other, text_of).expect("written");
    let second = anchorgate(&["run", "--config", other.to_str().expect("UTF-8")]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(text(&second.stderr).contains("data: another process is using it"), "{second:?}");
    // A quickstart does not delete the directory either.
    let dir = world.dir.to_str().expect("UTF-8");
    let quickstart = anchorgate(&["quickstart", "--check", "--data-dir", dir]);
    assert_eq!(quickstart.status.code(), Some(1), "{quickstart:?}");
    assert!(text(&quickstart.stderr).contains("another process is using it"), "{quickstart:?}");
    assert!(world.dir.join("pki/server.key").exists());

    // A crash writes no keys to a disk.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process.id()));
    let limits = limits.expect("the limits of a process");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let values: Vec<_> = core.expect("a limit").split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{limits}");

    // SIGHUP reloads the keys and does not stop the gateway.
    gateway.signal("HUP");
    assert!(gateway.get("/livez").ends_with("live\n"));

    // A request that is pending at the stop gets its response.
    let (mut open, mut reader) = pending_request(&world);
    gateway.signal("TERM");
    let start = Instant::now();
    while std::net::TcpStream::connect(world.ports.admin).is_ok() {
        assert!(start.elapsed() < SOON, "the gateway still listens");
    }
    open.write_all(b"{}").expect("sent");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("an answer");
    assert!(rest.contains("HTTP/1.1 4") && rest.contains("error"), "{rest}");
    assert_eq!(gateway.ends(), Some(0));
}
