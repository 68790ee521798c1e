//! Problems that settings of different tables have together.

use std::path::Path;

use crate::config::parse::parse;

const MINIMAL: &str = r#"
    data_dir = "state"
    [tls]
    certificate = "server.pem"
    key = "server.key"
    [oauth]
    issuer = "https://gw.example"
    token_url = "https://mtls.gw.example:8443"
    audience = "https://api.example"
    scopes = ["a"]
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text.parse().expect("TOML"), Path::new("/etc/anchorgate")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn two_listeners_on_one_address_are_a_problem() {
    let found = problems(&format!(
        "{MINIMAL}\n[token]\nlisten = '127.0.0.1:9000'\n[public]\nlisten = '0.0.0.0:9000'"
    ));
    let expected = "public.listen: `0.0.0.0:9000` is also the address of token.listen; each \
                    listener needs its own";
    assert_eq!(found, [expected]);
    assert_eq!(problems(&format!("{MINIMAL}\n[token]\nlisten = '0.0.0.0:8081'")), [""; 0]);
}

#[test]
fn a_problem_has_no_other_as_its_consequence() {
    let issuer = "[directory]\nlisten_http = '127.0.0.1:1'\n[[directory.issuers]]\n\
                  issuer = 'https://as'\naudiences = ['a']\njwks_url = 'http://as/jwks'";
    let found = problems(&format!("{MINIMAL}\n{issuer}"));
    assert!(found.len() == 1 && found[0].contains("an https URL"), "{found:#?}");
    let found = problems(&MINIMAL.replace(":8443", ":99999"));
    let expected = "oauth.token_url: `\"https://mtls.gw.example:99999\"` is not allowed; the \
                    port must be a number from 0 to 65535";
    assert_eq!(found, [expected]);
}
