//! `[admin]`: where operators ask, and who of them may.

use std::net::{Ipv4Addr, SocketAddr};

use crate::admin::Config;
use crate::admin::access::{Permission, Token};
use crate::config::read::Section;
use crate::config::revocation::hex;

/// Reads the section; `None` only after a problem was noted.
pub fn read(top: &mut Section) -> Option<Config> {
    let mut section = top.section("admin");
    let listen =
        section.address("listen").unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
    let on_loopback = listen.ip().is_loopback();
    let tls = section.flag("tls").unwrap_or(false);
    let one = section.has("token_sha256");
    let one = one.then(|| {
        let sha256 = sha256(&mut section, "token_sha256")?;
        Some(Token { name: "operator".to_owned(), sha256, permissions: vec![Permission::Operate] })
    });
    let mut named = section.sections("tokens");
    if one.is_some() && !named.is_empty() {
        section.problem("token_sha256", None, "`tokens` is there too; one of them");
    }
    let named = named.iter_mut().map(token);
    let tokens: Option<Vec<Token>> = one.into_iter().chain(named).collect();
    let tokens = tokens?;
    let open_reads = section.flag("open_reads");
    if open_reads == Some(false) && tokens.is_empty() {
        let allowed = "without tokens nobody could read status and metrics";
        section.problem("open_reads", Some("`false`".to_owned()), allowed);
    }
    if !on_loopback && (!tls || tokens.is_empty()) {
        let allowed = "an address that is not on loopback needs tls = true and tokens";
        section.problem("listen", Some(format!("`{listen}`")), allowed);
        return None;
    }
    Some(Config { listen, tls, tokens, open_reads: open_reads.unwrap_or(on_loopback) })
}

fn token(section: &mut Section) -> Option<Token> {
    let name = section.text("name");
    if name.is_none() {
        section.problem("name", None, "missing; the audit log tells who acts");
    }
    let sha256 = sha256(section, "sha256");
    let names = Permission::ALL.map(Permission::as_str).join(", ");
    let parse = |name: &str| Permission::ALL.into_iter().find(|known| known.as_str() == name);
    let permissions =
        section.require("permissions", &format!("a list of permissions out of {names}"), |value| {
            value.as_array()?.iter().map(|name| parse(name.as_str()?)).collect()
        });
    Some(Token { name: name?, sha256: sha256?, permissions: permissions? })
}

fn sha256(section: &mut Section, key: &'static str) -> Option<[u8; 32]> {
    section.require(key, "the SHA-256 of a token, 64 hexadecimal digits", |value| {
        hex(value.as_str()?)?.try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Problems;

    fn read_text(text: &str) -> (Option<Config>, Vec<String>) {
        let problems = Problems::default();
        let mut top = Section::top(text.parse().expect("TOML"), &problems);
        let read = read(&mut top);
        drop(top);
        let told = problems.borrow().iter().map(ToString::to_string).collect();
        (read, told)
    }

    #[test]
    fn tokens_are_one_or_several_with_names() {
        let hash = "ab".repeat(32);
        let (config, problems) = read_text(&format!("[admin]\ntoken_sha256 = '{hash}'"));
        assert_eq!(problems, [] as [String; 0]);
        let config = config.expect("settings");
        assert_eq!(config.tokens[0].permissions, [Permission::Operate]);
        assert!(config.open_reads && !config.tls);
        let (config, problems) = read_text(&format!(
            "[admin]\nlisten = '[::]:9090'\ntls = true\n[[admin.tokens]]\nname = 'scraper'\n\
             sha256 = '{hash}'\npermissions = ['read']"
        ));
        assert_eq!(problems, [] as [String; 0]);
        let config = config.expect("settings");
        assert_eq!(config.tokens[0].permissions, [Permission::Read]);
        assert!(!config.open_reads && config.tls);
    }

    #[test]
    fn what_leaves_it_open_to_strangers_is_a_problem() {
        let hash = "ab".repeat(32);
        let token = format!("token_sha256 = '{hash}'");
        for (keys, told) in [
            ("listen = '0.0.0.0:9090'".to_owned(), "admin.listen:"),
            ("listen = '0.0.0.0:9090'\ntls = true".to_owned(), "admin.listen:"),
            (format!("listen = '0.0.0.0:9090'\n{token}"), "admin.listen:"),
            ("open_reads = false".to_owned(), "admin.open_reads:"),
            ("token_sha256 = 'abc'".to_owned(), "admin.token_sha256:"),
            (format!("{token}\ntokens = [{{}}]"), "admin.token_sha256: `tokens`"),
            ("tokens = [{}]".to_owned(), "admin.tokens[0].name: missing"),
            ("tokens = [{ permissions = ['write'] }]".to_owned(), "admin.tokens[0].permissions:"),
        ] {
            let (_, problems) = read_text(&format!("[admin]\n{keys}"));
            assert!(problems.iter().any(|p| p.starts_with(told)), "{told} is not in {problems:#?}");
        }
    }
}
