//! Commands for the signing keys of a running gateway: `keys list|rotate|revoke`.

use std::process::ExitCode;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::operator::{AdminArgs, request};
use crate::cli::output::no_objects;
use crate::cli::terminal::text;

/// Actions on the signing keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Show the published signing keys: ID, algorithm, state and times
    List(AdminArgs),
    /// Create the next signing key now; it signs after `oauth.rotation.publish_ahead`
    Rotate(AdminArgs),
    /// Stop using and publishing a signing key at once, on every replica
    ///
    /// Its tokens fail as soon as verifiers fetch the key set again, at the latest after
    /// `oauth.jwks_max_age`.  If the key signed, the previous or the next key signs in its place.
    /// The private key is deleted.
    Revoke {
        /// ID of the key, as `keys list` prints it
        // One key ID in 64 begins with `-`.
        #[arg(value_name = "KID", allow_hyphen_values = true)]
        kid: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Runs `keys …`.
///
/// # Errors
/// The gateway does not respond, or rejects the request.
pub(super) async fn keys(command: &KeysCommand) -> anyhow::Result<ExitCode> {
    let (args, keys) = match command {
        KeysCommand::List(args) => {
            let status = request(args, Method::GET, "status.json", None).await?;
            (args, status["signingKeys"].clone())
        }
        KeysCommand::Rotate(args) => {
            (args, request(args, Method::POST, "keys/rotate", None).await?)
        }
        KeysCommand::Revoke { kid, admin } => {
            let body = json!({ "kid": kid });
            (admin, request(admin, Method::POST, "keys/revoke", Some(body)).await?)
        }
    };
    if !args.output().print(&keys) {
        let keys = keys.as_array().map(Vec::as_slice).unwrap_or_default();
        keys.iter().for_each(show);
        if keys.is_empty() {
            no_objects("signing keys");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(key: &Value) {
    println!("{}", line(key));
}

fn line(key: &Value) -> String {
    let until = match &key["publishedUntil"] {
        Value::Null => "the next key replaces it".into(),
        until => text(until),
    };
    format!(
        "{}  {}  {}  signs from {}  published until {until}",
        text(&key["kid"]),
        text(&key["algorithm"]),
        text(&key["state"]),
        text(&key["signsFrom"])
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_key_without_a_successor_is_published_until_there_is_one() {
        let key = json!({"kid": "k", "algorithm": "ES256", "state": "signs", "signsFrom": "t"});
        let expected = "k  ES256  signs  signs from t  published until the next key replaces it";
        assert_eq!(line(&key), expected);
    }

    #[test]
    fn a_key_id_may_begin_with_a_hyphen() {
        let words = ["anchorgate", "keys", "revoke", "-Lq3", "--output", "json"];
        let command = Cli::try_parse_from(words).expect("accepted").command;
        let Command::Keys(KeysCommand::Revoke { kid, .. }) = command else { panic!("{command:?}") };
        assert_eq!(kid, "-Lq3");
    }
}
