//! Files with secrets that a configuration names, and who may read them.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::{Config, changes};
use crate::graph::auth::Credential;
use crate::keyring;
use crate::runtime::secret_files::{FileModes, ModeFault, fault};

/// Files with secrets that others than the gateway can read or write.
pub(crate) struct InsecureFiles {
    /// Files that are refused.
    pub(crate) refused: Vec<ModeFault>,
    /// Files that are only reported.
    pub(crate) reported: Vec<ModeFault>,
}

impl Config {
    /// Returns the rule for the modes of files with secrets.  Nothing beyond this machine reaches a gateway on
    /// loopback.  The default health listener serves no secret.
    pub(super) fn file_modes(&self) -> FileModes {
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let of_tokens = [self.token.listen, self.public.listen];
        let of_tokens = of_tokens.into_iter().filter(|_| !self.is_hub());
        let directory = self.directory.iter().flat_map(|part| [part.listen, part.listen_http]);
        let health = self.health.filter(|_| self.health_is_set);
        let mut all = of_tokens.chain(directory.flatten()).chain([self.admin.listen]).chain(health);
        if all.all(is_local) { FileModes::Loopback } else { FileModes::Strict }
    }

    /// Checks every file with a secret, except those that a platform projects and renews
    /// (`federated_token_file`): Kubernetes gives them its own mode.
    pub(crate) fn insecure_files(&self, modes: FileModes) -> InsecureFiles {
        let is_secret = |key: &str| key.strip_suffix("_file").is_some_and(changes::is_secret);
        let named = self.origin.files.iter().filter(|file| is_secret(&file.key));
        let keys = self.graph.iter().filter_map(|source| Credential::key_file(&source.credential));
        let mut files: Vec<&Path> = keyring::secret_files(&self.keyring);
        files.extend(keys);
        files.extend(named.map(|file| &*file.path));
        files.sort_unstable();
        files.dedup();
        let faults = files.into_iter().filter_map(fault);
        let (refused, reported) = faults.partition(|fault| modes.refuses(fault));
        InsecureFiles { refused, reported }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::config::load;

    const LOOPBACK: &str = r#"
        data_dir = "state"
        [tls]
        certificate = "server.pem"
        key = "server.key"
        ticket_keys = ["tickets"]
        [token]
        listen = "127.0.0.1:8443"
        [public]
        listen = "[::1]:8444"
        [oauth]
        issuer = "https://gw.example"
        token_url = "https://mtls.gw.example:8443"
        audience = "https://api.example"
        scopes = ["a"]
        default_scopes = ["a"]
        signing_key = "signing.pem"
        published_keys = ["next.pem"]
        [[graph]]
        name = "a"
        url = "https://graph.example"
        [graph.credential]
        client_id = "c"
        client_secret_file = "secret"
        token_url = "https://login.example"
        [[graph]]
        name = "b"
        url = "https://graph.example"
        [graph.credential]
        client_id = "c"
        certificate = "c.pem"
        key = "c.key"
        token_url = "https://login.example"
        [[graph]]
        name = "c"
        url = "https://graph.example"
        [graph.credential]
        client_id = "c"
        federated_token_file = "projected"
        token_url = "https://login.example"
        [[graph]]
        name = "d"
        url = "https://graph.example"
        credential = { token_file = "token" }
        [directory]
        listen_http = "127.0.0.1:8080"
        database_url_file = "url"
        [[directory.tokens]]
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        permissions = []
    "#;
    const SECRETS: [&str; 8] =
        ["server.key", "tickets", "signing.pem", "next.pem", "secret", "c.key", "token", "url"];

    fn config(folder: &Path, text: &str) -> Config {
        let file = folder.join("config.toml");
        fs::write(&file, text).expect("written");
        load(&file).unwrap_or_else(|error| panic!("{error}"))
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in SECRETS.into_iter().chain(["server.pem", "c.pem", "projected"]) {
            let path = folder.path().join(name);
            fs::write(&path, "postgres://user:password@host/name").expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changed");
        }
        folder
    }

    #[test]
    fn every_secret_file_that_all_users_can_read_is_refused_except_on_loopback() {
        let folder = folder();
        let on = |text: &str, modes: Option<FileModes>| {
            let config = config(folder.path(), text);
            let found = config.insecure_files(modes.unwrap_or(config.keyring.file_modes));
            (found.refused.len(), found.reported.len())
        };
        let all = SECRETS.len();
        assert_eq!(on(LOOPBACK, None), (0, all));
        let public = LOOPBACK.replace("[::1]:8444", "0.0.0.0:8444");
        assert_eq!(on(&public, None), (all, 0));
        assert_eq!(on(&public, Some(FileModes::Unchecked)), (0, all));
        for name in SECRETS {
            let path = folder.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(0o440)).expect("changed");
        }
        assert_eq!(on(&public, None), (0, 0));
    }

    #[test]
    fn one_listener_beyond_this_machine_is_enough_to_refuse() {
        let folder = folder();
        let modes = |text: &str| config(folder.path(), text).keyring.file_modes;
        assert_eq!(modes(LOOPBACK), FileModes::Loopback, "with the default health listener");
        let mapped = LOOPBACK.replace("[::1]:8444", "[::ffff:127.0.0.1]:8444");
        assert_eq!(modes(&mapped), FileModes::Loopback);
        for (listener, other) in [
            ("listen = \"127.0.0.1:8443\"", ""),
            ("[::1]:8444", "192.0.2.1:8444"),
            (
                "listen_http",
                "public_url = \"https://d.example\"\nlisten = \"0.0.0.0:8445\"\nlisten_http",
            ),
            ("[oauth]\n", "[health]\nlisten = \"0.0.0.0:8081\"\n[oauth]\n"),
        ] {
            assert!(LOOPBACK.contains(listener), "{listener}");
            assert_eq!(modes(&LOOPBACK.replace(listener, other)), FileModes::Strict, "{listener}");
        }
    }
}
