use super::*;
use crate::runtime::log::Secret;

fn client(base: &str) -> Result<Client, AuthError> {
    let base = Url::parse(base).expect("a URL");
    let token = Credential::Static(Secret::new("t"));
    Client::new(&base, token, Some(Vec::new()), Limits::default())
}

#[test]
fn accepts_the_base_with_and_without_version_and_slash() {
    let list = Collection::MutualTlsOauth.path();
    for base in [
        "https://g.example",
        "https://g.example/",
        "https://g.example/beta",
        "https://g.example/beta/",
    ] {
        let url = client(base).expect("a client").url().to_string();
        assert_eq!(url, format!("https://g.example/{list}"));
    }
    let below = client("https://g.example/x/").expect("a client");
    assert_eq!(below.url().path(), format!("/x/{list}"));
}

#[test]
fn does_not_send_tokens_unencrypted_over_a_network() {
    for base in
        ["http://g.example", "http://10.0.0.1", "ftp://g.example", "http://127.0.0.1.g.example"]
    {
        assert!(client(base).is_err(), "{base}");
    }
    for base in ["http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081"] {
        assert!(client(base).is_ok(), "{base}");
    }
}

#[test]
fn follows_links_to_the_same_origin_only() {
    let client = client("https://g.example").expect("a client");
    assert!(client.same_origin("https://g.example/beta/x?$skiptoken=1").is_ok());
    assert!(client.same_origin("https://g.example:443/y").is_ok());
    for link in [
        "https://evil.example/",
        "http://g.example/",
        "https://g.example:444/",
        "/beta/x",
        "https://g.example@evil.example/",
    ] {
        assert!(matches!(client.same_origin(link), Err(FetchError::Foreign(_))), "{link}");
    }
}
