//! The CRL source with a web server, a disk and a directory that change.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anchorgate::crl::{Config, RefreshError};
use anchorgate::runtime::clock::Clock;
use anchorgate::trust::assembly::ListState;
use anchorgate::trust::configurations::Configurations;
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{AuthorityPolicy, CrlMode, ListPolicy, Revocations, Selector};
use anchorgate::x509::time::Timestamp;
use tokio::net::TcpListener;

use crate::support::crl_maker::{self, Ca, HOUR, NOW};
use crate::support::crl_questions::{check_at, code};
use crate::support::crl_source::{Running, anchors, number, start, start_at};
use crate::support::web::{Page, Web};

#[tokio::test]
async fn only_newer_valid_lists_replace_the_list_in_force() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).revoke(&[1], None).sign());
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    assert_eq!(running.list().await.entries(), 1);

    web.put("/1.crl", ca.list().number(6).revoke(&[1], None).revoke(&[2], None).sign());
    assert_eq!(number(&running.refresh().await), Some("6"));
    assert_eq!(running.list().await.entries(), 2);

    let impostor = Ca::root("Root");
    let later = Timestamp(NOW.0 + 1);
    for (bad, why) in [
        (ca.list().number(5).sign(), "cRLNumber 5 is below 6"),
        (ca.list().sign(), "cRLNumber (none) is below 6"),
        (ca.list().number(6).this_update(Timestamp(NOW.0 - 5 * HOUR)).sign(), "thisUpdate"),
        (ca.list().number(7).delta_to(6).sign(), "the list is a delta"),
        (ca.list().number(7).this_update(later).sign(), "in the future"),
        (impostor.list().number(7).sign(), "does not verify"),
        (b"<html>".to_vec(), "PEM"),
        (Vec::new(), "truncated"),
    ] {
        web.put("/1.crl", bad);
        let error = running.error().await;
        assert!(error.contains(why), "{error}");
    }
    web.put_page("/1.crl", Page { status: 503, ..Page::default() });
    assert!(running.error().await.contains("503"));
    assert!(running.is_silent(), "no update was sent");
    assert_eq!(number(&running.handle.status()[0]), Some("6"));
}

#[tokio::test]
async fn revalidates_an_unchanged_list_by_etag() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let headers = vec!["ETag: \"a\"".to_owned(), "Cache-Control: max-age=200".to_owned()];
    let body = ca.list().number(5).sign();
    web.put_page("/1.crl", Page { status: 200, headers, body });
    let url = web.url("/1.crl");
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    running.list().await;
    let status = running.refresh().await;
    assert!(status.last_error.is_none());
    let next = status.next_fetch.as_deref().and_then(Timestamp::parse_rfc3339);
    let wait = next.expect("a time").0 - NOW.0;
    assert!((200..=220).contains(&wait), "{wait}");
    assert!(running.is_silent());
    let asked = web.asked.lock().expect("no panic").clone();
    assert_eq!(asked.len(), 2);
    assert!(!asked[0].contains("if-none-match"));
    assert!(asked[1].contains("if-none-match: \"a\"") && asked[1].contains("no-cache"));
}

#[tokio::test]
async fn the_newest_list_survives_a_restart_without_a_network() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || Config { directory: Some(directory.path().into()), ..Config::default() };
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).revoke(&[1], None).sign());
    let mut running = start(config(), anchors(&ca, Some(&url), None));
    running.list().await;
    // A rejected list leaves the saved copy unchanged.
    web.put("/1.crl", ca.list().number(4).sign());
    running.error().await;
    drop(running);

    let mut running = start(config(), anchors(&ca, Some(&url), None));
    assert_eq!(running.list().await.entries(), 1, "from disk");
    let error = running.error().await;
    assert!(error.contains("cRLNumber 4 is below 5"), "{error}");
    drop(running);

    // The copy is not used after the directory replaced the authority.
    let other = Ca::root("Root");
    web.put_page("/1.crl", Page { status: 500, ..Page::default() });
    let mut running = start(config(), anchors(&other, Some(&url), None));
    assert!(running.error().await.contains("500"));
    assert!(running.is_silent());
}

#[tokio::test]
async fn a_clock_set_back_before_a_restart_does_not_admit_an_older_list() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || Config { directory: Some(directory.path().into()), ..Config::default() };
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).revoke(&[1], None).sign());
    let mut running = start(config(), anchors(&ca, Some(&url), None));
    running.list().await;
    drop(running);

    let replayed = ca.list().number(4).this_update(Timestamp(NOW.0 - 3 * HOUR));
    web.put("/1.crl", replayed.sign());
    let clock: Clock = Arc::new(|| Timestamp(NOW.0 - 2 * HOUR));
    let mut running = start_at(config(), anchors(&ca, Some(&url), None), clock);
    // The list accepts no certificate until the clock is right; its revocations count.
    assert_eq!(running.list().await.number, Some(5.into()), "from disk");
    let error = running.error().await;
    assert!(error.contains("cRLNumber 4 is below 5"), "{error}");
}

#[tokio::test]
async fn an_authority_that_returns_starts_with_its_saved_list() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config { directory: Some(directory.path().into()), ..Config::default() };
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).revoke(&[1], None).sign());
    let mut running = start(config, anchors(&ca, Some(&url), None));
    running.list().await;
    running.put_in_force(anchors(&ca, None, None));
    running.gone().await;
    // The source processes its files before it answers this request.
    let asked = running.handle.refresh(None).await.expect("the source runs");
    assert!(asked.is_empty());
    let files: Vec<_> = std::fs::read_dir(directory.path())
        .expect("readable")
        .map(|file| file.expect("an entry").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].extension(), Some("aside".as_ref()));

    web.put("/1.crl", ca.list().number(4).sign());
    running.put_in_force(anchors(&ca, Some(&url), None));
    assert_eq!(running.list().await.number, Some(5.into()), "from disk");
    let error = running.error().await;
    assert!(error.contains("cRLNumber 4 is below 5"), "{error}");
}

#[tokio::test]
async fn reports_lists_that_were_never_usable() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    web.put("/1.crl", Ca::root("Root").list().number(1).sign());
    let url = web.url("/1.crl");
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    let why = running.unusable().await;
    assert!(why.contains(&url) && why.contains("does not verify"), "{why}");
    // A list of the right signer is accepted.
    web.put("/1.crl", ca.list().number(1).sign());
    running.refresh().await;
    running.list().await;
    // The state is dropped when no authority names the address.
    running.put_in_force(anchors(&ca, None, None));
    running.gone().await;
    assert!(running.handle.status().is_empty());
    assert_eq!(running.handle.refresh(Some(&url)).await, Err(RefreshError::Unknown(url.clone())));
    running.put_in_force(anchors(&ca, Some("ldap://ca.example/"), None));
    assert!(running.unusable().await.contains("ldap"));
    running.put_in_force(anchors(&ca, None, None));
    running.gone().await;
}

#[tokio::test]
async fn waits_for_the_first_fetches_of_a_generation() {
    let ca = Ca::root("Root");
    let running = start(Config::default(), anchors(&ca, None, None));
    running.handle.wait_until_attempted(1).await.expect("the source runs");
    let mut second = std::pin::pin!(running.handle.wait_until_attempted(2));
    assert!(futures_util::poll!(second.as_mut()).is_pending(), "generation 2 is not processed");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/1.crl", server.local_addr().expect("bound"));
    running.put_in_force(anchors(&ca, Some(&url), None));
    let (connection, _) = server.accept().await.expect("a fetch");
    assert!(futures_util::poll!(second.as_mut()).is_pending(), "the fetch is running");
    drop(connection);
    second.await.expect("the source runs");
    assert!(running.handle.status()[0].last_error.is_some());
}

#[tokio::test]
async fn shows_addresses_with_unsupported_schemes() {
    let ca = Ca::root("Root");
    let url = "ldap://ca.example/cn=ca";
    let mut running = start(Config::default(), anchors(&ca, Some(url), None));
    assert!(running.unusable().await.contains(url));
    let asked = running.handle.refresh(Some(url)).await.expect("it is named");
    assert_eq!(asked, running.handle.status());
    let [status] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((&*status.address, &status.authorities[..]), (url, &["CN=Root".to_owned()][..]));
    assert_eq!((&status.list, &status.next_fetch), (&None, &None));
    let error = status.last_error.as_ref().expect("a failure");
    assert!(error.error.contains("not a supported CRL address"), "{error:?}");
    assert!(running.handle.refresh(Some("ldap://ca.example/cn=other")).await.is_err());
    running.put_in_force(anchors(&ca, None, None));
    running.gone().await;
    assert!(running.handle.status().is_empty());
}

#[tokio::test]
async fn does_not_fetch_for_authorities_with_mode_off() {
    let (off, on, web) = (Ca::root("Off"), Ca::root("On"), Web::start().await);
    web.put("/shared", on.list().number(1).sign());
    let both = |shared: &str| {
        let mut set = Configurations::clone(&anchors(&off, Some(&web.url("/off")), None));
        let on = anchors(&on, Some(shared), None).configurations[0].authorities[0].clone();
        Arc::make_mut(&mut set.configurations[0]).authorities.push(on);
        Arc::new(set)
    };
    let entry = |subject: &Ca, mode| AuthorityPolicy {
        selector: Selector {
            subject: Some(subject.certificate.subject.clone()),
            ..Selector::default()
        },
        mode: Some(mode),
        grace: Some(std::time::Duration::from_secs(7200)),
        ..AuthorityPolicy::default()
    };
    let authorities = vec![entry(&off, CrlMode::Off), entry(&on, CrlMode::IfAvailable)];
    let policy = ListPolicy { authorities, ..ListPolicy::default() };
    let config = Config { policy, ..Config::default() };
    let mut running = start(config.clone(), both(&web.url("/shared")));
    running.list().await;
    let status = running.refresh().await;
    assert_eq!(status.address, web.url("/shared"));
    let demanded = &status.policies[0];
    assert_eq!((demanded.mode, demanded.grace_seconds), ("if-available", 7200));
    let asked = web.asked.lock().expect("no panic").clone();
    assert!(asked.iter().all(|head| !head.contains("/off")), "{asked:?}");
    // Two authorities share an address: one is enough to fetch from it, but the other's list does not count.
    web.put("/off", off.list().number(1).sign());
    let mut running = start(config, both(&web.url("/off")));
    assert!(running.unusable().await.contains("/off"));
    assert_eq!(running.handle.status()[0].authorities, ["CN=On"]);
}

#[tokio::test]
async fn enforces_size_redirect_and_address_limits() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let mut list = ca.list().number(1);
    list.entries = crl_maker::many(0, 100);
    web.put("/1.crl", list.sign());
    let mut config = Config::default();
    config.transport.max_bytes = 1000;
    let url = web.url("/1.crl");
    let running = start(config, anchors(&ca, Some(&url), None));
    let error = running.error().await;
    assert!(error.contains("at most 1000"), "{error}");

    for path in 0..7 {
        let headers = vec![format!("Location: /{}", path + 1)];
        web.put_page(&format!("/{path}"), Page { status: 302, headers, body: Vec::new() });
    }
    web.put("/7", ca.list().number(1).sign());
    for (first, ends) in [("/2", "fine"), ("/1", "more than 5 redirects")] {
        let url = web.url(first);
        let running = start(Config::default(), anchors(&ca, Some(&url), None));
        let error = running.refresh().await.last_error.map(|error| error.error);
        assert!(error.unwrap_or("fine".to_owned()).contains(ends), "{first}");
    }

    let mut config = Config::default();
    config.transport.public_only = true;
    let before = web.asked();
    for url in [web.url("/7"), web.url("/7").replace("127.0.0.1", "localhost")] {
        let running = start(config.clone(), anchors(&ca, Some(&url), None));
        let error = running.error().await;
        assert!(error.contains("public address"), "{error}");
    }
    assert_eq!(web.asked(), before, "a request was sent");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let ca = Ca::root("Root");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/1.crl", silent.local_addr().expect("an address"));
    let mut config = Config::default();
    config.transport.timeout = std::time::Duration::from_millis(20);
    let running = start(config, anchors(&ca, Some(&url), None));
    let error = running.error().await;
    assert!(error.contains("within 20ms"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unreachable_host_times_out_sooner() {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    socket.listen(0).expect("a queue");
    let address = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
    // Fills the accept queue; further connections are not accepted.
    let connect = || {
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)).ok()
    };
    let queued: Vec<_> = std::iter::from_fn(connect).collect();

    let (ca, mut config) = (Ca::root("Root"), Config::default());
    config.transport.connect = std::time::Duration::from_millis(50);
    let begin = std::time::Instant::now();
    let running = start(config, anchors(&ca, Some(&format!("http://{address}/1.crl")), None));
    let error = running.error().await;
    assert!(error.contains("client error (Connect)"), "{error}");
    assert!(begin.elapsed() < Config::default().transport.timeout, "{error}");
    drop(queued);
}

#[tokio::test]
async fn concurrent_refreshes_share_a_fetch() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    web.put("/1.crl", ca.list().number(1).sign());
    let url = web.url("/1.crl");
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    running.list().await;
    let before = web.asked();
    let asking = (0..50).map(|_| {
        let handle = running.handle.clone();
        tokio::spawn(async move { handle.refresh(None).await.expect("the source runs") })
    });
    for one in asking.collect::<Vec<_>>() {
        one.await.expect("no panic");
    }
    let fetches = web.asked() - before;
    assert!((1..=50).contains(&fetches));
    // Most refreshes are served by a fetch that they share.
    assert!(fetches < 25, "{fetches} fetches for 50 refreshes");
}

#[cfg(unix)]
#[tokio::test]
async fn follows_a_mounted_list_when_its_link_is_swapped() {
    let ca = Ca::root("Root");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("first"), ca.list().number(1).sign()).expect("room");
    std::fs::write(path("second"), crl_maker::pem(&ca.list().number(2).sign())).expect("room");
    std::os::unix::fs::symlink(path("first"), path("crl")).expect("a link");
    let url = url::Url::from_file_path(path("crl")).expect("a URL").to_string();

    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    assert!(
        running.unusable().await.contains("not a supported CRL address"),
        "files are off by default"
    );
    drop(running);

    let mut config = Config::default();
    config.transport.files = true;
    let mut running = start(config, anchors(&ca, Some(&url), None));
    assert_eq!(running.list().await.number, Some(1.into()));
    assert!(running.refresh().await.last_error.is_none());
    assert!(running.is_silent(), "the same file");
    std::os::unix::fs::symlink(path("second"), path("new")).expect("a link");
    std::fs::rename(path("new"), path("crl")).expect("swapped");
    running.refresh().await;
    assert_eq!(running.list().await.number, Some(2.into()));
}

#[tokio::test]
async fn base_and_delta_come_from_their_own_addresses() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    web.put("/base", ca.list().number(1).sign());
    web.put("/delta", ca.list().number(2).delta_to(1).revoke(&[9], None).sign());
    let (base, delta) = (web.url("/base"), web.url("/delta"));
    let mut running = start(Config::default(), anchors(&ca, Some(&base), Some(&delta)));
    let (a, b) = (running.list().await, running.list().await);
    assert_ne!(a.is_delta(), b.is_delta());
    let kinds: Vec<_> =
        running.handle.status().iter().filter_map(|s| Some(s.list.as_ref()?.kind)).collect();
    assert_eq!(kinds, ["complete", "delta"]);
}

#[tokio::test]
async fn a_delta_of_another_scope_is_shown_while_it_is_not_combined() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    // onlyContainsUserCerts.
    let scope = [0x81, 1, 0xff];
    web.put("/base", ca.list().number(1).sign());
    web.put("/delta", ca.list().number(2).delta_to(1).scope(&scope).revoke(&[9], None).sign());
    let (base, delta) = (web.url("/base"), web.url("/delta"));
    let mut running = start(Config::default(), anchors(&ca, Some(&base), Some(&delta)));
    let lists = [running.list().await, running.list().await];
    let unused = |running: &Running| {
        let find = |address: &String| {
            let mut all = running.handle.status().into_iter();
            all.find(|status| status.address == *address).expect("a status").unused
        };
        (find(&base), find(&delta))
    };
    let (of_base, of_delta) = unused(&running);
    assert_eq!(of_base, None);
    let why = of_delta.expect("shown");
    assert!(why.contains("delta (user certificates)"), "{why}");
    assert!(why.contains("complete list (no issuingDistributionPoint)"), "{why}");
    // Its entry counts.
    let device = ca.issue("device", &[9], &[]);
    let decision = check_at(&Revocations::new(lists), &ca, &device, NOW);
    assert_eq!(code(decision), Some(Code::CertificateRevoked));

    // A complete list of the same scope ends it.
    web.put("/base", ca.list().number(2).scope(&scope).sign());
    running.handle.refresh(Some(&base)).await.expect("refreshed");
    assert_eq!(unused(&running), (None, None));
    // So does the end of the complete list.
    web.put("/base", ca.list().number(3).sign());
    running.handle.refresh(Some(&base)).await.expect("refreshed");
    assert!(unused(&running).1.is_some());
    running.put_in_force(anchors(&ca, None, Some(&delta)));
    running.handle.wait_until_attempted(2).await.expect("the source runs");
    let statuses = running.handle.status();
    assert_eq!((statuses.len(), &statuses[0].unused), (1, &None));
}

#[tokio::test(start_paused = true)]
async fn polls_on_time_when_the_clock_jumps() {
    let ca = Ca::root("Root");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("list.crl");
    let put = |number| std::fs::write(&path, ca.list().number(number).sign()).expect("room");
    let url = url::Url::from_file_path(&path).expect("a URL").to_string();
    let mut config = Config::default();
    config.transport.files = true;
    let begin = tokio::time::Instant::now();
    let set_by = Arc::new(AtomicI64::new(0));
    let offset = Arc::clone(&set_by);
    let clock: Clock = Arc::new(move || {
        let elapsed = begin.elapsed().as_secs();
        Timestamp(NOW.0 + elapsed as i64 + offset.load(Ordering::Relaxed))
    });
    put(1);
    let mut running = start_at(config, anchors(&ca, Some(&url), None), clock);
    assert_eq!(running.list().await.number, Some(1.into()));
    put(2);
    let before = begin.elapsed();
    assert_eq!(running.list().await.number, Some(2.into()));
    let waited = begin.elapsed() - before;
    assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
    // The clock is set back, so that nothing seems due for a while, and then forward.
    for (number, hours) in [(3, -1), (4, 20)] {
        set_by.store(hours * HOUR, Ordering::Relaxed);
        put(number);
        let before = begin.elapsed();
        let found = running.next().await;
        let waited = (begin.elapsed() - before).as_secs();
        assert!(waited <= 31, "{waited} s");
        match found {
            ListState::InForce(list) => assert_eq!(list.number, Some(number.into())),
            other => panic!("{other:?}"),
        }
    }
}
