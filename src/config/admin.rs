//! `[admin]`: the operators' listener and its tokens.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::admin::Config;
use crate::admin::access::{Permission, Token};
use crate::config::section::Section;
use crate::http::local_socket;

/// Reads the section.  Paths are relative to `folder`.  Returns `None` only after a problem was noted.
pub(super) fn read(
    top: &mut Section<'_>,
    folder: &Path,
    data_dir: Option<&Path>,
) -> Option<Config> {
    top.section("admin", |section| {
        let socket = socket(section, folder, data_dir);
        let listen = section
            .address("listen")
            .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
        let on_loopback = listen.ip().is_loopback();
        let tls = section.flag("tls").unwrap_or(false);
        let tokens = tokens(section);
        let open_reads = section.flag("open_reads");
        let tokens = tokens?;
        if open_reads == Some(false) && tokens.is_empty() {
            let allowed = "status and metrics would be unreachable; configure `tokens`";
            section.problem("open_reads", Some("`false`".to_owned()), allowed);
        }
        if !on_loopback && (!tls || tokens.is_empty()) {
            let allowed = "an address that is not on loopback needs tls = true and tokens";
            section.problem("listen", Some(format!("`{listen}`")), allowed);
            return None;
        }
        let open_reads = open_reads.unwrap_or(on_loopback);
        Some(Config { listen, tls, socket, tokens, open_reads })
    })
}

/// The Unix socket, by default in `data_dir`; `None` if that path is too long for a socket.
fn socket(section: &mut Section<'_>, folder: &Path, data_dir: Option<&Path>) -> Option<PathBuf> {
    let fits = |path: &PathBuf| path.as_os_str().len() <= local_socket::MAX_PATH;
    let Some(path) = section.file("socket") else {
        return data_dir.map(|dir| dir.join("admin.sock")).filter(fits);
    };
    let path = folder.join(path);
    if !fits(&path) {
        let allowed = format!("a path of at most {} bytes", local_socket::MAX_PATH);
        section.problem("socket", Some(format!("`{}`", path.display())), allowed);
    }
    Some(path)
}

/// The single token of `token_sha256`, or those of `[[admin.tokens]]`.
fn tokens(section: &mut Section<'_>) -> Option<Vec<Token>> {
    let single = section.has("token_sha256").then(|| {
        let sha256 = section.token_sha256("token_sha256")?;
        Some(Token { name: "operator".to_owned(), sha256, permissions: vec![Permission::Operate] })
    });
    let named = section.sections("tokens", token);
    if single.is_some() && !named.is_empty() {
        section.problem("token_sha256", None, "set either `token_sha256` or `tokens`");
    }
    single.into_iter().chain(named).collect()
}

fn token(section: &mut Section<'_>) -> Option<Token> {
    let name = section.text("name");
    if name.is_none() {
        section.problem("name", None, "missing: audit records contain it");
    }
    let sha256 = section.token_sha256("sha256");
    let permissions = section.permissions(Permission::ALL.map(Permission::as_str), |name| {
        Permission::ALL.into_iter().find(|known| known.as_str() == name)
    });
    Some(Token { name: name?, sha256: sha256?, permissions: permissions? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section;

    fn read_text(text: &str) -> (Option<Config>, Vec<String>) {
        section::read_text(text, |top| read(top, Path::new("/etc"), Some(Path::new("/data"))))
    }

    #[test]
    fn accepts_one_token_or_several_with_names() {
        let hash = "ab".repeat(32);
        let (config, problems) = read_text(&format!("[admin]\ntoken_sha256 = '{hash}'"));
        assert_eq!(problems, [] as [String; 0]);
        let config = config.expect("settings");
        assert_eq!(config.tokens[0].permissions, [Permission::Operate]);
        assert!(config.open_reads && !config.tls);
        let text = format!(
            "[admin]\nlisten = '[::]:9090'\ntls = true\n[[admin.tokens]]\nname = 'scraper'\n\
             sha256 = '{hash}'\npermissions = ['read']"
        );
        let (config, problems) = read_text(&text);
        assert_eq!(problems, [] as [String; 0]);
        let config = config.expect("settings");
        assert_eq!(config.tokens[0].permissions, [Permission::Read]);
        assert!(!config.open_reads && config.tls);
    }

    #[test]
    fn rejects_settings_that_leave_it_open_to_strangers() {
        let hash = "ab".repeat(32);
        let token = format!("token_sha256 = '{hash}'");
        for (keys, expected) in [
            ("listen = '0.0.0.0:9090'".to_owned(), "admin.listen:"),
            ("listen = '0.0.0.0:9090'\ntls = true".to_owned(), "admin.listen:"),
            (format!("listen = '0.0.0.0:9090'\n{token}"), "admin.listen:"),
            ("open_reads = false".to_owned(), "admin.open_reads:"),
            (format!("socket = '/{}'", "x".repeat(107)), "admin.socket:"),
            ("token_sha256 = 'abc'".to_owned(), "admin.token_sha256:"),
            (format!("{token}\ntokens = [{{}}]"), "admin.token_sha256: set either"),
            ("tokens = [{}]".to_owned(), "admin.tokens[0].name: missing"),
            ("tokens = [{ permissions = ['write'] }]".to_owned(), "admin.tokens[0].permissions:"),
        ] {
            let (_, problems) = read_text(&format!("[admin]\n{keys}"));
            assert!(
                problems.iter().any(|p| p.starts_with(expected)),
                "{expected} is not in {problems:#?}"
            );
        }
    }

    #[test]
    fn the_socket_is_in_the_data_directory_by_default() {
        let socket = |text| read_text(text).0.expect("settings").socket.expect("a path");
        assert_eq!(socket(""), Path::new("/data/admin.sock"));
        assert_eq!(socket("[admin]\nsocket = 'run/a.sock'"), Path::new("/etc/run/a.sock"));
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        let (config, problems) =
            section::read_text("", |top| read(top, Path::new("/etc"), Some(&long)));
        assert_eq!((config.expect("settings").socket, problems), (None, Vec::<String>::new()));
    }
}
