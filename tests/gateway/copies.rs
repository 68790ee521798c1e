//! Backup and restore of a hub's directory, with a gateway that follows it.

use std::process::Command;

use anchorgate::trust::subject::SubjectField;

use super::Gateway;
use super::hub::{follower, hub as without_tokens};

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_has_exactly_the_anchors_of_a_restored_hub() {
    let hub = Gateway::start(&[], |text| without_tokens(&text)).await;
    hub.until_ready().await;
    let [kept, removed, added] =
        [SubjectField::SanDns, SubjectField::SanUri, SubjectField::SanEmail].map(|f| hub.domain(f));
    let (stays, goes) = (hub.create(kept).await, hub.create(removed).await);
    // It holds nothing back: the backup has other anchors than the directory now.
    let follower = follower(&hub.world, "every = \"1s\"\nwait = \"60s\"\nmax_removal = 1.0").await;
    follower.configurations(2).await;
    let world = hub.world.dir.clone();
    let at = |name: &str| world.join(name).display().to_string();
    let (code, text) = hub.program(&format!("directory backup {}", at("copy"))).await;
    assert!(code == Some(0) && text.contains("backed up: 2 objects"), "{text}");

    let deleted = hub.http.delete(hub.directory(&format!("/{goes}")));
    let deleted = deleted.bearer_auth(&hub.world.directory_token).send().await;
    assert_eq!(deleted.expect("an answer").status(), 204);
    hub.create(added).await;
    // Both changes are in force when the new anchor is, because a poll reads the whole list.
    follower.served(added).await;
    assert!(!follower.ids().contains(&goes));

    let (code, text) = hub.program(&format!("directory restore {}", at("copy"))).await;
    assert!(code == Some(0) && text.contains("restored: 2 objects"), "{text}");
    // The anchor that came back, and then the one that the backup does not have.
    follower.served(removed).await;
    let mut expected = [stays, goes];
    expected.sort();
    let mut ids = follower.ids();
    ids.sort();
    assert_eq!(ids, expected);

    for (words, word) in [
        (format!("directory backup {}", at("copy")), "exists"),
        (format!("directory restore {}", at("none")), "No such file"),
        (format!("directory restore {}", at("anchorgate.toml")), "not a line of a backup"),
        (
            format!("directory backup {} --offline {}", at("new"), at("anchorgate.toml")),
            "--offline",
        ),
        (
            format!("directory backup {} --admin http://{}", at("new"), hub.app.addresses.admin),
            "socket",
        ),
    ] {
        let (code, text) = hub.program(&words).await;
        assert!(code == Some(1) && text.contains(word), "{words}: {text}");
    }
    let (code, text) = follower.program(&format!("directory backup {}", at("new"))).await;
    assert!(code == Some(1) && text.contains("no directory of its own"), "{text}");

    // The same while the hub is stopped.
    assert!(hub.app.stop().await);
    let file = world.join("anchorgate.toml").display().to_string();
    for (command, copy) in [("restore", at("copy")), ("backup", at("new"))] {
        let words = format!("directory {command} {copy} --offline {file}");
        let mut program = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        program.args(words.split(' '));
        let output = tokio::task::spawn_blocking(move || program.output()).await;
        let output = output.expect("no panic").expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("2 objects"), "{words}: {output:?}");
    }
}
