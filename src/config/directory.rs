//! `[directory]`: the embedded directory.

use std::path::Path;

use toml::Value;
use url::Url;

use crate::config::DirectoryPart;
use crate::config::section::Section;
use crate::config::values::url;
use crate::directory;
use crate::directory::auth::StaticToken;
use crate::directory::issuers::{Issuer, KeySource, PermissionsClaim};
use crate::directory::permissions::Permission;
use crate::store::Database;

/// Reads the section.  `own_issuer` is the `iss` of this gateway's tokens.  Returns `None` without a
/// section, and after a problem that leaves no settings.
pub(super) fn read(
    top: &mut Section<'_>,
    folder: &Path,
    own_issuer: Option<&str>,
) -> Option<DirectoryPart> {
    let present = top.has("directory");
    top.section("directory", |section| present.then(|| part(section, folder, own_issuer)))
}

fn part(section: &mut Section<'_>, folder: &Path, own_issuer: Option<&str>) -> DirectoryPart {
    let listen = section.address("listen");
    let listen_http = section.address("listen_http");
    if let Some(address) = listen_http.filter(|address| !address.ip().is_loopback()) {
        let allowed = "plain HTTP is for loopback only; use `listen` for other addresses";
        section.problem("listen_http", Some(format!("`{address}`")), allowed);
    }
    if listen.is_none() && listen_http.is_none() {
        section.problem("listen", None, "missing: set `listen` or `listen_http`");
    }
    let has_url = section.has("public_url");
    let public_url = section.take("public_url", SERVICE_ROOT, service_root);
    if listen.is_some() && !has_url {
        section.problem("public_url", None, "missing: links in responses begin with it");
    }
    let database = database(section, folder);
    let mut config = directory::Config::default();
    config.page_size = section.size("page_size", 1..=999).unwrap_or(config.page_size);
    let is_open_to_none = section.array_len("tokens") + section.array_len("issuers") == 0;
    config.tokens = section.sections("tokens", token).into_iter().flatten().collect();
    let issuers = section.sections("issuers", |section| issuer(section, folder, own_issuer));
    config.issuers = issuers.into_iter().flatten().collect();
    let is_reported = section.has_problem("tokens") || section.has_problem("issuers");
    if is_open_to_none && !is_reported {
        let allowed = "missing: without `tokens` and `issuers` every request would be denied";
        section.problem("tokens", None, allowed);
    }
    let public_url = public_url.map(|url| url.to_string());
    DirectoryPart { listen, listen_http, public_url, database, config }
}

/// The database of the directory; `None` for a file in `data_dir`.  No problem contains the URL,
/// which may have a password.
fn database(section: &mut Section<'_>, folder: &Path) -> Option<Database> {
    let key = if section.has("database_url") { "database_url" } else { "database_url_file" };
    let url = section.secret("database_url", "database_url_file", folder);
    let connections = section.number("database_connections", 1..=1_000);
    let connections = connections.and_then(|number| u32::try_from(number).ok());
    Database::parse(url?.expose())
        .map(|database| match connections {
            Some(connections) => database.with_connections(connections),
            None => database,
        })
        .map_err(|error| section.problem(key, None, error.to_string()))
        .ok()
}

fn issuer(section: &mut Section<'_>, folder: &Path, own_issuer: Option<&str>) -> Option<Issuer> {
    let issuer = section.text("issuer");
    if issuer.is_none() {
        section.problem("issuer", None, "missing: the `iss` of its tokens");
    }
    let audiences = section.texts("audiences").unwrap_or_default();
    if audiences.is_empty() {
        section.problem("audiences", None, "missing: the accepted `aud` values of its tokens");
    }
    let keys = match (section.file("jwks_file"), section.secure_url("jwks_url")) {
        (Some(file), None) => Some(KeySource::File(folder.join(file))),
        (None, Some(url)) => Some(KeySource::Url(url)),
        // The value that is not valid was reported.
        _ if section.has_problem("jwks_file") || section.has_problem("jwks_url") => None,
        _ => {
            section.problem("jwks_url", None, "set either `jwks_url` or `jwks_file`");
            None
        }
    };
    let ca_bundle = section.file_contents("ca_bundle", folder);
    let claims = [("roles", PermissionsClaim::Roles), ("scope", PermissionsClaim::Scope)];
    let permissions_claim = section.choice("permissions_claim", &claims);
    // This gateway's own tokens carry permissions in `scope` and never belong to a person.
    let default = match issuer.as_deref() {
        own if own.is_some() && own == own_issuer => PermissionsClaim::Scope,
        _ => PermissionsClaim::default(),
    };
    let permissions_claim = permissions_claim.unwrap_or(default);
    Some(Issuer { issuer: issuer?, audiences, keys: keys?, permissions_claim, ca_bundle })
}

const SERVICE_ROOT: &str = "an absolute http or https URL without `/beta`, which is appended to it";

/// The URL of the directory without its version.  Links append a path to it.
fn service_root(value: &Value) -> Option<Url> {
    let url = url(value)?;
    let has_version = url.path().trim_end_matches('/').to_ascii_lowercase().ends_with("/beta");
    (!has_version && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

fn token(section: &mut Section<'_>) -> Option<StaticToken> {
    let name = section.text("name");
    let sha256 = section.token_sha256("sha256");
    let names = Permission::ALL.map(Permission::as_str);
    let permissions = section.permissions(names, Permission::parse);
    let sha256 = sha256?;
    let name = name.unwrap_or_else(|| {
        let start: String = sha256[..4].iter().map(|b| format!("{b:02x}")).collect();
        format!("token {start}")
    });
    Some(StaticToken { name, sha256, permissions: permissions? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::read_text;

    fn read_keys(keys: &str, folder: &Path) -> (Option<DirectoryPart>, Vec<String>) {
        let token = format!("sha256 = '{}'\npermissions = []", "0".repeat(64));
        let text = format!("[directory]\n{keys}\n[[directory.tokens]]\n{token}");
        read_text(&text, |top| read(top, folder, None))
    }

    #[test]
    fn an_absent_section_is_not_a_problem() {
        let (part, problems) = read_text("", |top| read(top, Path::new("/etc"), None));
        assert!(part.is_none() && problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn no_problem_contains_the_password_of_a_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |keys: &str| {
            let keys = format!("listen_http = '127.0.0.1:0'\n{keys}");
            let (part, problems) = read_keys(&keys, folder.path());
            if problems.is_empty() {
                Ok(part.and_then(|part| part.database).map(|database| database.to_string()))
            } else {
                Err(problems.concat())
            }
        };
        std::fs::write(folder.path().join("url"), "postgres://hub:hunter2@db.example/d\n")
            .expect("a file");
        let expected = Ok(Some("db.example:5432/d".to_owned()));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("database_url = 'postgres://hub:hunter2@db.example/d'"), expected);
        assert_eq!(read("database_url_file = 'url'"), expected);
        for (keys, key) in [
            ("database_url = 'hunter2'", "directory.database_url: "),
            ("database_url = 7", "directory.database_url: "),
            ("database_url_file = 'none'", "directory.database_url_file: "),
            (
                "database_url_file = 'url'\ndatabase_url = 'hunter2'",
                "directory.database_url_file: ",
            ),
        ] {
            let problem = read(keys).expect_err(keys);
            assert!(problem.starts_with(key) && !problem.contains("hunter2"), "{keys}: {problem}");
        }
    }

    /// Links append `/beta` to the public URL.
    #[test]
    fn a_public_url_does_not_contain_the_version() {
        let problems = |url: &str| {
            let keys = format!("listen = '127.0.0.1:0'\npublic_url = '{url}'");
            read_keys(&keys, Path::new("/etc")).1
        };
        for good in ["https://hub.example", "https://hub.example:8445/", "https://x.example/hub/"] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
        for bad in [
            "https://hub.example/beta",
            "https://x.example/hub/BETA/",
            "https://x/?a",
            "https://x/#a",
            "x",
        ] {
            let found = problems(bad);
            assert!(
                found.len() == 1 && found[0].starts_with("directory.public_url: "),
                "{found:?}"
            );
        }
    }
}
