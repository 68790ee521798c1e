//! The token path of Entra ID selects one of several directories.

use anchorgate::cli::quickstart::client::{Answer, Connection};
use anchorgate::trust::subject::SubjectField;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Gateway;
use super::hub::following;
use crate::support::misbehaving::{Misbehaving, Reply};

async fn token(connection: &mut Connection, path: &str, client_id: &str) -> Answer {
    let form = format!("grant_type=client_credentials&client_id={client_id}");
    connection.post(path, form).await.expect("an answer")
}

/// The `sub` of the token in a response.
fn subject(answer: &Answer) -> String {
    let token = answer.body["access_token"].as_str().expect("a token");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["sub"].as_str().expect("a subject").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_path_selects_a_directory() {
    let hub = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let empty = Misbehaving::start().await;
    empty.answer(|_, _| Reply::json(&json!({"value": []})));
    let url = format!("http://{}", hub.world.ports.directory_http);
    let directory_token = &*hub.world.directory_token;
    let keys = "every = \"1s\"";
    // Both directories `second` and `first` accept the device; the order in the file decides, not the name.
    let sources = [
        ("empty", &*empty.url, "x", keys),
        ("second", &*url, directory_token, keys),
        ("first", &*url, directory_token, keys),
    ];
    let gateway = Gateway::start(&[], |text| following(&text, &sources)).await;
    gateway.configurations(2).await;
    gateway.reached("empty").await;
    let domain = hub.domain(SubjectField::SanDns);
    let id = &domain.devices[0].subject_id;
    let mut connection = gateway.served(domain).await;
    for (path, directory) in [
        ("/oauth2/token", "second"),
        ("/first/oauth2/v2.0/token", "first"),
        ("/FIRST/oauth2/v2.0/token", "first"),
        ("/second/oauth2/v2.0/token", "second"),
    ] {
        let answer = token(&mut connection, path, id).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let subject = subject(&answer);
        assert!(subject.starts_with(&format!("{directory}%2F")), "{path}: {subject}");
    }
    let refused = token(&mut connection, "/empty/oauth2/v2.0/token", id).await;
    assert_eq!((refused.status.as_u16(), &refused.body["error"]), (401, &json!("invalid_client")));
    for unknown in ["/common/oauth2/v2.0/token", "/first/oauth2/token"] {
        // A connection ends after a response that did not need the body.
        let mut connection = gateway.served(domain).await;
        assert_eq!(token(&mut connection, unknown, id).await.status, 404, "{unknown}");
    }
}
