use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::keyring::generate::generate_signing_key;
use crate::keyring::replace_key_of_other_algorithm;
use crate::runtime::secret_files::FileModes;
use crate::token::rotation::{Bounds, Times};
use crate::token::terms::MAX_LIFETIME;

const SECOND: Duration = Duration::from_secs(1);
const START: Timestamp = Timestamp(1_800_000_000);

fn schedule() -> Rotation {
    let times =
        Times { every: 100 * SECOND, publish_ahead: 10 * SECOND, retire_after: 30 * SECOND };
    let bounds = Bounds { longest_life: 30 * SECOND, cache: 5 * SECOND, spread: SPREAD };
    Rotation::new(times, bounds).expect("a schedule")
}

fn config(dir: &Path, further: &[Algorithm]) -> Config {
    Config {
        signs: true,
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
        signing_key: dir.join("signing-key.pem"),
        algorithm: Algorithm::Es256,
        generate_signing_key: true,
        rotation: Some(RotationConfig {
            schedule: schedule(),
            directory: dir.join("keys"),
            further: further.iter().copied().collect(),
        }),
        published_keys: Vec::new(),
        ticket_keys: Vec::new(),
        file_modes: FileModes::Loopback,
    }
}

/// A replica without its task: the part that decides.
struct Replica {
    state: State,
    keys: SigningKeys,
}

impl Replica {
    fn start(config: &Config, now: Timestamp) -> Self {
        let (changes, _) = mpsc::channel(1);
        let rotation = config.rotation.as_ref().expect("a rotation");
        let clock: Clock = Arc::new(move || now);
        let started = Rotator::start(config, rotation, clock, Ready::default(), changes);
        let (keys, rotator, _) = started.expect("started");
        let state = Arc::into_inner(rotator.state).expect("the only one");
        Self { state: state.into_inner().expect("no panic"), keys }
    }

    fn step(&mut self, now: Timestamp) {
        if let Some(keys) = self.state.step(now).expect("a step") {
            self.keys = keys;
        }
    }

    fn kid(&self) -> &str {
        self.keys.current().kid()
    }
}

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn files(config: &Config) -> Vec<String> {
    let directory = &config.rotation.as_ref().expect("a rotation").directory;
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn replicas_sign_with_the_same_key_through_every_rotation() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[Algorithm::Rs256]);
    let mut replicas = [Replica::start(&config, START), Replica::start(&config, START)];
    let mut signed = vec![replicas[0].kid().to_owned()];
    for second in 1..550 {
        for replica in &mut replicas {
            replica.step(at(second));
        }
        let [a, b] = &replicas;
        assert_eq!(a.keys.jwks(), b.keys.jwks(), "second {second}");
        assert_eq!(a.kid(), b.kid(), "second {second}");
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let of = |r: &Replica| r.keys.of(Some(algorithm)).expect("a key").kid().to_owned();
            assert_eq!(of(a), of(b));
        }
        if signed.last().map(String::as_str) != Some(a.kid()) {
            assert_eq!(second % 100, 0, "signs from its time on");
            signed.push(a.kid().to_owned());
        }
        // The previous key is published for 30 s, the next one for 10 s ahead.
        let published = a.keys.jwks().matches("ES256").count();
        let expected = match second % 100 {
            0..30 if second >= 100 => 2,
            90.. => 2,
            _ => 1,
        };
        assert_eq!(published, expected, "second {second}");
    }
    signed.sort();
    signed.dedup();
    assert_eq!(signed.len(), 6, "five rotations");
    assert_eq!(
        files(&config),
        ["ES256-000006.pem", "RS256-000006.pem"],
        "retired keys are deleted"
    );
}

#[test]
fn a_revoked_key_is_unpublished_everywhere_and_never_returns() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let mut replicas = [Replica::start(&config, START), Replica::start(&config, START)];
    for replica in &mut replicas {
        replica.step(at(95));
    }
    let revoked = replicas[0].kid().to_owned();
    assert!(replicas[1].keys.jwks().contains(&revoked));
    replicas[0].state.perform(Command::Revoke(revoked.clone()), at(96)).expect("revoked");
    for replica in &mut replicas {
        replica.step(at(97));
        assert!(!replica.keys.jwks().contains(&revoked));
        assert_ne!(replica.kid(), revoked, "the next key signs in its place");
    }
    // A backup that brings the file back changes nothing, even for a replica that starts now.
    let pem = "Signs-From: 2026-11-28T00:00:00Z\n";
    fs::write(dir.path().join("keys/ES256-000001.pem"), pem).expect("written");
    let third = Replica::start(&config, at(98));
    assert_eq!(third.kid(), replicas[0].kid());
    assert!(third.state.keys.problems.is_empty(), "the file is not read");
    let unknown = replicas[0].state.perform(Command::Revoke(revoked), at(99));
    assert!(matches!(unknown, Err(RotationError::Unknown(_))));
}

#[test]
fn without_any_other_key_a_revocation_creates_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let mut replica = Replica::start(&config, START);
    let revoked = replica.kid().to_owned();
    replica.state.perform(Command::Revoke(revoked.clone()), at(1)).expect("revoked");
    replica.step(at(1));
    assert_ne!(replica.kid(), revoked);
    assert_eq!(files(&config), ["ES256-000001.revoked", "ES256-000002.pem"]);
}

#[test]
fn the_key_that_signed_before_becomes_the_first_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    generate_signing_key(&config.signing_key, Algorithm::Es256).expect("generated");
    let before = crate::keyring::signing_keys(&config).expect("keys").current().kid().to_owned();
    assert_eq!(Replica::start(&config, START).kid(), before);
    assert_eq!(Replica::start(&config, at(1)).kid(), before, "imported once");
}

/// The key that signed before and the existing keys of the directory stay published.
#[test]
fn another_algorithm_begins_with_a_key_of_its_own() {
    for has_directory in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path(), &[]);
        generate_signing_key(&config.signing_key, Algorithm::Es256).expect("generated");
        let before =
            crate::keyring::signing_keys(&config).expect("keys").current().kid().to_owned();
        if has_directory {
            assert_eq!(Replica::start(&config, START).kid(), before);
        }
        let changed = Config { algorithm: Algorithm::EdDsa, ..config };
        let replica = Replica::start(&changed, at(1));
        assert_eq!(replica.keys.current().algorithm(), "EdDSA");
        assert!(replica.keys.jwks().contains(&before), "the old key stays published");
        assert_eq!(files(&changed), ["ES256-000001.pem", "EdDSA-000001.pem"]);
    }
}

/// The rotation is configured while tokens of an earlier algorithm are valid.
#[test]
fn a_key_of_an_earlier_algorithm_is_published_until_its_tokens_expire() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    generate_signing_key(&config.signing_key, Algorithm::EdDsa).expect("generated");
    let old = Config { algorithm: Algorithm::EdDsa, rotation: None, ..config.clone() };
    let old = crate::keyring::signing_keys(&old).expect("keys").current().kid().to_owned();
    // The end of the publication counts from the time of the change.
    let changed = Config { rotation: None, ..config.clone() };
    replace_key_of_other_algorithm(&changed, START).expect("replaced");
    let mut replica = Replica::start(&config, START);
    assert!(replica.keys.jwks().contains(&old));
    replica.step(START.after(MAX_LIFETIME));
    assert!(!replica.keys.jwks().contains(&old));
}

#[test]
fn a_lost_file_is_written_back_and_a_lost_directory_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let mut replica = Replica::start(&config, START);
    replica.step(at(95));
    let (kid, jwks) = (replica.kid().to_owned(), replica.keys.jwks().clone());
    let file = dir.path().join("keys/ES256-000001.pem");
    let contents = fs::read(&file).expect("there");
    fs::remove_file(&file).expect("removed");
    replica.step(at(96));
    assert_eq!(fs::read(&file).expect("written back"), contents);
    assert_eq!((replica.kid(), replica.keys.jwks()), (&kid[..], &jwks));

    for name in files(&config) {
        fs::remove_file(dir.path().join("keys").join(name)).expect("removed");
    }
    replica.step(at(97));
    assert!(replica.state.keys.problems[0].contains("all key files are gone"));
    assert_eq!(files(&config), [""; 0], "the mount is missing");
    assert_eq!((replica.kid(), replica.keys.jwks()), (&kid[..], &jwks));
    fs::remove_dir(dir.path().join("keys")).expect("removed");
    assert!(replica.state.step(at(98)).is_err());
    assert_eq!(replica.kid(), kid);
}

#[test]
fn a_damaged_file_is_reported_and_the_others_stay_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let mut replica = Replica::start(&config, START);
    let kid = replica.kid().to_owned();
    let next = dir.path().join("keys/ES256-000002.pem");
    fs::write(&next, "Signs-From: soon\n").expect("written");
    replica.step(at(95));
    let problem = replica.state.keys.problems[0].clone();
    assert!(problem.contains("ES256-000002.pem") && problem.contains("Signs-From"), "{problem}");
    assert!(
        files(&config).contains(&"ES256-000003.pem".to_owned()),
        "the number is not used again"
    );
    assert_eq!(replica.kid(), kid);
    replica.step(at(105));
    assert_ne!(replica.kid(), kid, "the rotation continues");
}

#[test]
fn names_of_key_files_have_one_spelling() {
    for (stem, good) in [
        ("ES256-000007", true),
        ("RS256-1000000", true),
        ("ES256-7", false),
        ("ES256-0000007", false),
        ("ES256-000000", false),
        ("HS256-000001", false),
        ("signing", false),
    ] {
        assert_eq!(KeyId::parse(stem).is_some(), good, "{stem}");
    }
}

#[tokio::test(start_paused = true)]
async fn operators_rotate_and_revoke_while_it_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let (changes, mut changed) = mpsc::channel(4);
    let rotation = config.rotation.clone().expect("a rotation");
    let clock: Clock = Arc::new(|| START);
    let started = Rotator::start(&config, &rotation, clock, Ready::default(), changes);
    let (keys, rotator, handle) = started.expect("started");
    tokio::spawn(rotator.run());
    let first = keys.current().kid().to_owned();
    let after = handle.rotate().await.expect("rotated");
    let states: Vec<_> = after.iter().map(|key| key.state).collect();
    assert_eq!(states, ["signs", "next"]);
    assert_eq!(after[1].signs_from, at(10).to_string());
    let Some(Change::SigningKeys(keys)) = changed.recv().await else { panic!("a change") };
    assert_eq!((keys.current().kid(), keys.list().count()), (&first[..], 2));
    assert!(matches!(handle.rotate().await, Err(RotationError::Announced { .. })));
    let after = handle.revoke(&first).await.expect("revoked");
    assert_eq!((after.len(), after[0].state), (1, "signs"));
    assert_eq!(after[0].signs_from, START.to_string(), "it signs before its time");
    let Some(Change::SigningKeys(keys)) = changed.recv().await else { panic!("a change") };
    assert!(!keys.jwks().contains(&first));
    // A client with another algorithm is added.
    let further = [Algorithm::EdDsa].into_iter().collect();
    handle.follow(RotationConfig { further, ..rotation }).await.expect("followed");
    let Some(Change::SigningKeys(keys)) = changed.recv().await else { panic!("a change") };
    assert!(keys.of(Some(Algorithm::EdDsa)).is_ok());
    assert!(matches!(Handle::default().rotate().await, Err(RotationError::Off)));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_panics_starts_again_and_is_alarmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), &[]);
    let (fails, ready) = (Arc::new(AtomicBool::new(false)), Ready::default());
    let switch = Arc::clone(&fails);
    let clock: Clock = Arc::new(move || {
        assert!(!switch.swap(false, Ordering::SeqCst), "on purpose");
        START
    });
    let (changes, mut changed) = mpsc::channel(1);
    let rotation = config.rotation.as_ref().expect("a rotation");
    let started = Rotator::start(&config, rotation, clock, ready.clone(), changes);
    let (_, rotator, handle) = started.expect("started");
    let task = tokio::spawn(rotator.run());
    fails.store(true, Ordering::SeqCst);
    assert!(handle.rotate().await.is_err(), "the command is lost with the panic");
    handle.rotate().await.expect("started again");
    assert!(matches!(changed.recv().await, Some(Change::SigningKeys(_))));
    assert!(ready.warnings()["signing_key_task"].contains("panicked"));
    drop(handle);
    task.await.expect("ended");
}
