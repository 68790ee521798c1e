//! The saved list: restarts, full disks, killed processes and age.

use super::*;
use anchorgate::sync::StartWithout;

#[tokio::test]
async fn a_restart_without_the_network_serves_the_last_good_list() {
    let (rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    graph.answer(|_, _| Reply::Bytes(vec![]));
    let restart = || Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
    let mut rig = restart();
    let _ = rig.handle.refresh().await;
    assert_eq!(rig.in_force(), Some(good.all.clone()));
    assert!(rig.handle.status().from_disk);
}

/// Flips one bit in the middle of a file.
fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("damaged");
}

#[tokio::test]
async fn the_journal_keeps_an_older_list_from_readmitting_anchors() {
    let (mut rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.accepts("half", &half, &good.only("one")).await;
    drop(rig);
    let files = ["anchors", "anchors.1", "anchors.journal"].map(|name| folder.path().join(name));
    let kept = files.each_ref().map(|file| std::fs::read(file).expect("saved"));
    let restore = || {
        for (file, bytes) in files.iter().zip(&kept) {
            std::fs::write(file, bytes).expect("written");
        }
    };
    graph.answer(|_, _| Reply::Bytes(vec![]));
    let restart = |start_without| {
        let (graph, folder) = (graph.clone(), Arc::clone(&folder));
        Rig::start(graph, folder, move |config| config.start_without = start_without)
    };
    let [newest, previous, journal] = &files;

    // The newest list is damaged or missing: the previous one is used, without the removed anchor.
    for is_missing in [false, true] {
        restore();
        if is_missing {
            std::fs::remove_file(newest).expect("removed");
        } else {
            damage(newest);
        };
        let mut rig = restart(StartWithout::Refuse);
        let _ = rig.handle.refresh().await;
        assert_eq!(rig.in_force(), Some(good.only("one")));
        assert!(logged(&["ERROR", "newest saved configurations not usable"]));
    }

    // The journal is not usable either: nothing is in force before the directory is reached.
    // An older journal does not count.
    for is_missing in [false, true] {
        restore();
        damage(newest);
        if is_missing {
            std::fs::remove_file(journal).expect("removed");
        } else {
            damage(journal);
        };
        let mut rig = restart(StartWithout::Refuse);
        let _ = rig.handle.refresh().await;
        assert_eq!(rig.in_force(), None, "not loaded, so not ready");
        assert!(logged(&[
            "ERROR",
            "previous configurations not used until the directory is reached"
        ]));
        drop(rig);
        // The operator prefers availability.
        let mut rig = restart(StartWithout::Continue);
        let _ = rig.handle.refresh().await;
        assert_eq!(rig.in_force(), Some(good.all.clone()));
        assert!(logged(&["ERROR", "previous configurations used although"]));
    }

    // A response of the directory ends the wait.
    let mut rig = restart(StartWithout::Refuse);
    let _ = rig.handle.refresh().await;
    assert_eq!(rig.in_force(), None, "not loaded, so not ready");
    rig.accepts("reached", &good.list, &good.all).await;
    drop(rig);
    graph.answer(|_, _| Reply::Bytes(vec![]));
    // Both lists are damaged: nothing is in force.
    for file in [newest, previous] {
        std::fs::write(file, b"garbage").expect("damaged");
    }
    let mut rig = restart(StartWithout::Continue);
    let _ = rig.handle.refresh().await;
    assert_eq!(rig.in_force(), None);
    assert!(logged(&["ERROR", "saved configurations not usable", "damaged"]));
}

#[tokio::test]
async fn a_full_disk_does_not_stop_updates() {
    let (mut rig, good) = Rig::good_with(|config| {
        // The folder is a file: every write fails, like on a full disk.
        config.state_file = Some(PathBuf::from("/proc/version/anchors"));
    })
    .await;
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.accepts("half", &half, &good.only("one")).await;
    assert!(logged(&["ERROR", "in force, but not written to disk", "/proc/version"]));
}

/// Variables for the child of [`a_killed_process_leaves_a_complete_list`]: its state folder and the URL of
/// its directory.
const CHILD: [&str; 2] = ["GRAPH_FAULTS_FOLDER", "GRAPH_FAULTS_URL"];

/// The process that is killed; does nothing as a test.  Prints a line for each list that it has applied.
#[tokio::test]
async fn child_process_that_syncs() {
    let [Ok(folder), Ok(url)] = CHILD.map(std::env::var) else { return };
    let mut config = config(&url);
    config.state_file = Some(PathBuf::from(folder).join("anchors"));
    let (sender, mut updates) = mpsc::channel(64);
    let metrics = Metrics::register(&mut Registry::default());
    let clock = Arc::new(|| Timestamp(NOW));
    let (handle, sync) = follow(config, metrics, sender, clock).expect("usable");
    tokio::spawn(sync.run());
    loop {
        handle.refresh().await.expect("a good poll");
        while updates.try_recv().is_ok() {}
        println!("applied");
    }
}

/// Each applied list is saved; the process is killed between the first byte of a file and its renaming.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_a_complete_list() {
    let (graph, good) = (Misbehaving::start().await, Good::new());
    let grown = good.but(|list| {
        let list = list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list");
        list.push(Ca::root("one-3").element(true));
    });
    let mut more = good.all.clone();
    more.insert(("one".into(), "one-3".into()));
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut written = BTreeSet::new();
    for round in 0..12u64 {
        let lists = [good.list.clone(), grown.clone()];
        graph.answer(move |_, n| Reply::json(&lists[n % 2]));
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "faults::persistence::child_process_that_syncs", "--nocapture"])
            .envs(CHILD.into_iter().zip([folder.path().as_os_str(), graph.url.as_ref()]))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let killed = tokio::task::spawn_blocking(move || {
            let taken = lines.by_ref().map_while(Result::ok).filter(|l| l.ends_with("applied"));
            // At a different moment of the write each time.
            let taken = taken.take(3 + usize::try_from(round).expect("small")).count();
            std::thread::sleep(Duration::from_micros(round * 700));
            child.kill().expect("killed");
            child.wait().expect("ended");
            taken
        });
        assert!(killed.await.expect("no panic") >= 3, "the child synced until it was killed");
        written.extend(
            std::fs::read_dir(folder.path()).expect("it").map(|f| f.expect("it").file_name()),
        );

        graph.answer(|_, _| Reply::Bytes(vec![]));
        let mut rig = Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
        rig.handle.refresh().await.expect_err("a dead directory");
        let in_force = rig.in_force().expect("a list");
        assert!(in_force == good.all || in_force == more, "round {round}: {in_force:?}");
        assert!(rig.handle.status().from_disk);
    }
    assert!(written.iter().any(|f| f == "anchors.1"), "{written:?}");
}

/// A panic in one directory's follower stops neither the process nor the follower, and does not bring the
/// saved list back, which can be older than the list in force.
#[tokio::test]
async fn a_follower_that_panics_starts_again_and_changes_nothing() {
    let (mut rig, good) = Rig::good().await;
    let kept = saved_files(&rig);
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.accepts("half", &half, &good.only("one")).await;
    // As if the last list had not been written, because the disk was full.
    for (file, bytes) in kept {
        std::fs::write(file, bytes).expect("written");
    }

    rig.graph.answer(|_, _| Reply::status(500));
    rig.clock.store(BROKEN, Ordering::Relaxed);
    let handle = rig.handle.clone();
    let refresh = tokio::spawn(async move { handle.refresh().await });
    let panicked = || rig.handle.status().last_error.as_deref() == Some("the follower panicked");
    soon(async {
        while !panicked() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(rig.polls("panicked") > 0);
    assert!(logged(&["ERROR", "follower of configurations panicked", "source=hub"]));
    rig.clock.store(NOW, Ordering::Relaxed);
    soon(refresh).await.expect("not aborted").expect_err("a directory that cannot be reached");
    assert_eq!(rig.in_force(), Some(good.only("one")));
    rig.accepts("reached again", &half, &good.only("one")).await;
    assert_eq!(rig.handle.status().last_error, None);
}

/// The saved files of a follower of configurations, with their content.
fn saved_files(rig: &Rig) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(rig.folder.path()).expect("the folder");
    let files = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(path).expect("saved"))).collect()
}

#[tokio::test]
async fn age_ignores_clock_jumps_and_triggers_the_policy() {
    let (mut rig, good) = Rig::good_with(|config| config.too_old = TooOld::Refuse).await;
    rig.clock.fetch_add(YEAR, Ordering::Relaxed);
    rig.fails("a year ahead", "500", |_, _| Reply::status(500)).await;
    assert_eq!(rig.in_force(), Some(good.all.clone()), "a clock jump does not age the list");
    assert!(!rig.handle.status().too_old);

    // After a restart a year later the saved list is old by the clock.
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    let start = |too_old, now| {
        let (graph, folder) = (graph.clone(), Arc::clone(&folder));
        Rig::start_at(now, graph, folder, move |config| config.too_old = too_old)
    };
    let mut rig = start(TooOld::Refuse, NOW + YEAR);
    let update = soon(rig.updates.recv()).await.expect("an update");
    let Update::Configurations { set, .. } = update else { panic!("not of a directory") };
    assert!(set.configurations.is_empty());
    assert!(set.skipped[0].why.contains("was not reached for"));
    assert!(logged(&["ERROR", "was not reached for", "no longer in force"]));
    assert!(rig.handle.status().too_old && rig.metric("graph_too_old{source=\"hub\"} 1"));
    drop(rig);
    let mut rig = start(TooOld::Continue, NOW + YEAR);
    let _ = rig.handle.refresh().await;
    assert_eq!(rig.in_force(), Some(good.all.clone()));
    assert!(rig.handle.status().too_old, "in force, with an alarm");
    assert!(logged(&["ERROR", "was not reached for", "still in force"]));
    drop(rig);
    // After a successful poll the list is in force again although it has not changed.
    let mut rig = start(TooOld::Refuse, NOW + YEAR);
    let _ = rig.handle.refresh().await;
    assert_eq!(rig.in_force(), Some(InForce::new()));
    rig.accepts("reached again", &good.list, &good.all).await;
    assert!(!rig.handle.status().too_old);
}
