//! All problems of the key files, for `check-config`.

use rustls::crypto::CryptoProvider;

use crate::keyring::{
    Config, KeyringError, check_directory, identity, other_algorithm, private_key, server_chain,
    signing_key, signing_keys, ticket_secret,
};

/// Returns every problem of the key files, each once.  It creates nothing.
pub fn check(config: &Config, provider: &CryptoProvider) -> Vec<String> {
    let mut problems = Problems::default();
    let is_chain = problems.note(&server_chain(config));
    let is_key = problems.note(&private_key(config));
    if is_chain && is_key {
        problems.note(&identity(config, provider));
    }
    for path in &config.ticket_keys {
        let secret = ticket_secret(config, path);
        problems.note(&secret.map_err(|error| error.of_setting("tls.ticket_keys")));
    }
    if config.signs {
        signing(config, &mut problems);
    }
    problems.0
}

fn signing(config: &Config, problems: &mut Problems) {
    if config.rotation.is_some() {
        problems.note(&check_directory(config));
        return;
    }
    let is_missing = config.generate_signing_key && !config.signing_key.exists();
    let is_generated = is_missing || matches!(other_algorithm(config), Ok(Some(_)));
    let current = (!is_generated).then_some(&config.signing_key);
    let read: Vec<_> = current
        .into_iter()
        .chain(&config.published_keys)
        .map(|path| {
            let key = match *path == config.signing_key {
                true => "oauth.signing_key",
                false => "oauth.published_keys",
            };
            problems.note(&signing_key(config, path).map_err(|error| error.of_setting(key)))
        })
        .collect();
    // The set is checked when each key is usable.
    if !is_generated && read.iter().all(|is_usable| *is_usable) {
        problems.note(&signing_keys(config));
    }
}

/// The problems so far.  Two settings can name one file.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// Returns true if there was no error.
    fn note<T>(&mut self, result: &Result<T, KeyringError>) -> bool {
        let Err(error) = result else { return true };
        let text = error.to_string();
        if !self.0.contains(&text) {
            self.0.push(text);
        }
        false
    }
}
