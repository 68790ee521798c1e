//! Previews of changes to the trust list.

use anchorgate::trust::subject::SubjectField;
use serde_json::{Value, json};

use super::Gateway;

#[tokio::test(flavor = "multi_thread")]
async fn trust_diff_compares_a_response_with_the_list_in_force() {
    let fields = [SubjectField::SanDns, SubjectField::SanUri];
    let gateway = Gateway::start(&fields, |text| text).await;
    let token_file = gateway.world.dir.join("token");
    std::fs::write(&token_file, format!("{}\n", gateway.world.directory_token)).expect("written");
    let generation = gateway.app.live.current().trust.generation;

    // The directory's current list equals the list in force.
    let url = gateway.directory("");
    let get = format!("trust diff {url} --token-file {}", token_file.display());
    let (code, text) = gateway.program(&get).await;
    assert!(code == Some(0) && text.starts_with("no change to"), "{text}");
    let (code, text) = gateway.program(&format!("trust diff {url}")).await;
    assert!(code == Some(1) && text.contains("401"), "{text}");

    let list = gateway.http.get(&url).bearer_auth(&gateway.world.directory_token).send().await;
    let list: Value = list.expect("an answer").json().await.expect("JSON");
    let file = gateway.world.dir.join("answer.json");
    let diff = async |answer: &str, more: &str| {
        std::fs::write(&file, answer).expect("written");
        gateway.program(&format!("trust diff {}{more}", file.display())).await
    };

    // One of two anchors is replaced.
    let mut other = list.clone();
    let gone = gateway.domain(SubjectField::SanUri).root.certificate.fingerprint.to_string();
    let come = gateway.domain(SubjectField::SanIp);
    for entry in other["value"].as_array_mut().expect("a list") {
        if entry["tlsClientAuthParameter"] == SubjectField::SanUri.as_str() {
            entry["displayName"] = "Renamed".into();
            entry["certificateAuthorities"] = gateway.world.authorities(come);
        }
    }
    let (code, text) = diff(&other.to_string(), "").await;
    assert_eq!(code, Some(0), "{text}");
    let has = |what: &str| text.lines().any(|line| line.contains(what));
    assert!(has("renamed from `Quickstart uri` to `Renamed`"), "{text}");
    assert!(
        has(&format!("root `CN=Quickstart uri Root,O=Quickstart` sha256 {gone} removed")),
        "{text}"
    );
    let come = come.root.certificate.fingerprint;
    assert!(
        has(&format!("root `CN=Quickstart ip Root,O=Quickstart` sha256 {come} added")),
        "{text}"
    );
    assert!(has("from quickstart: 1 anchors added, 1 of 2 removed"), "{text}");
    assert!(!has("held back"), "{text}");

    // The preview includes the removal guard.
    let (code, text) = diff(r#"{"value":[]}"#, "").await;
    assert!(code == Some(0) && text.contains("would be held back"), "{text}");
    let (code, text) = diff(r#"{"value":[]}"#, " --json --source quickstart").await;
    let preview: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &preview["held_back"]), (Some(0), &json!(true)));
    assert_eq!(preview["changes"]["anchors_removed"], 2);

    let paged = json!({"value": [], "@odata.nextLink": url}).to_string();
    for (answer, more, why) in [
        ("<html>", "", "not JSON"),
        (r#"{"error":{}}"#, "", "`value` is not a list"),
        (&paged, "", "continues at"),
        (r#"{"value":[]}"#, " --source unknown", "no source is called `unknown`"),
        (r#"{"value":[]}"#, " --token-file /x", "are for a URL"),
    ] {
        let (code, text) = diff(answer, more).await;
        assert!(code == Some(1) && text.contains(why), "{answer}: {text}");
    }
    assert_eq!(gateway.app.live.current().trust.generation, generation, "nothing was published");
}
