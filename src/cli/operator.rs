//! Commands for a running gateway, through its admin plane: `ready`, `trust`, `crl show|refresh`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::cli::crl::{InspectArgs, run_inspect, show_status};
use crate::cli::gateway::Gateway;
use crate::cli::input::{
    expect_configurations, list_response, read_ca_bundle, read_input, read_secret,
};
use crate::cli::output::{Output, no_objects};
use crate::cli::terminal::{indented, text};
use crate::cli::trust_actions::{self, approval, counted, texts};
use crate::graph::{Collection, wire};
use crate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities, read_limited};
use crate::runtime::text::{MAX_CHARACTERS, clean};
use crate::x509::time::Timestamp;

/// Limit in bytes on a list response to compare.  With its JSON frame it must fit into the admin
/// plane's limit of 16 MiB.
const MAX_LIST_RESPONSE: usize = 15 * 1024 * 1024;

/// The gateway, and the output format.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    gateway: Gateway,
    /// Print JSON; the same as `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl AdminArgs {
    /// Format of the output.
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { self.output }
    }
}

/// Arguments of `ready`.
#[derive(Debug, Args)]
pub(super) struct ReadyArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Actions on the trust in force.
#[derive(Debug, Subcommand)]
pub(super) enum TrustCommand {
    /// Show the configurations in force, their sources and ages
    Show(AdminArgs),
    /// Poll the directories now; exit status 1 if one of them failed
    ///
    /// A change that is held back is shown, with the command that approves it.  It is not a failure: the exit
    /// status is 0, and `ready` warns of it.
    Sync(AdminArgs),
    /// Show what a list response of a directory would change, without applying it
    Diff(DiffArgs),
    /// Apply a response that was held back, because it removes too much or makes devices ambiguous
    Approve {
        /// Source of the response; optional if there is only one
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Digest of the change, as `trust show` prints it
        #[arg(long, value_name = "HEX")]
        digest: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Arguments of `trust diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The response: a file, `-` for standard input, or an http or https URL to fetch it from
    #[arg(value_name = "FILE|URL")]
    response: String,
    /// File with a bearer token for the URL
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the only authorities accepted for the URL's server
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// Source that the response stands for; optional if there is only one
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Actions on revocation lists.
#[derive(Debug, Subcommand)]
pub(super) enum CrlCommand {
    /// Show the list of each address: number, entries, age, next fetch and last error
    Show(AdminArgs),
    /// Print a list, and why it would not be used; needs no gateway
    Inspect(InspectArgs),
    /// Fetch the list of one address, or of all, now; exit status 1 if a fetch failed
    Refresh {
        /// The address, as the authorities name it; all if absent, except with --accept-rollback
        #[arg(value_name = "URL")]
        address: Option<String>,
        /// Accept a list whose number or time is older, or that another key signed
        ///
        /// Use it after the issuer was restored or replaced.  Make sure first that the address does
        /// not return an old, replayed list.
        #[arg(long, requires = "address")]
        accept_rollback: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Runs `ready`: exit status 0 if the gateway is ready.
///
/// # Errors
/// The gateway does not respond.
pub(super) async fn ready(args: &ReadyArgs) -> anyhow::Result<ExitCode> {
    let status = request(&args.admin, Method::GET, "readyz", None).await?;
    let missing: Vec<_> = texts(&status["missing"]);
    let is_ready = status["ready"] == json!(true);
    if args.admin.output().print(&status) {
        return Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match is_ready {
        true => println!("ready"),
        false => println!("not ready: {} missing", missing.join(", ")),
    }
    let warnings = status["warnings"].as_object();
    for (part, warning) in warnings.into_iter().flatten() {
        println!("warning: {}: {}", clean(part, MAX_CHARACTERS), indented(warning));
    }
    let is_new = |part: &&Cow<'_, str>| warnings.is_none_or(|all| !all.contains_key(&***part));
    for part in texts(&status["degraded"]).iter().filter(is_new) {
        let of = if part.starts_with("directory ") { "trust" } else { "crl" };
        println!("warning: {part}; see `anchorgate {of} show`");
    }
    for list in status["without_list"].as_array().into_iter().flatten() {
        let authorities = texts(&list["authorities"]).join(", ");
        println!("no revocation list yet: {authorities}, from {}", text(&list["address"]));
    }
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `trust …`.
///
/// # Errors
/// The gateway does not respond, or rejects the request.
pub(super) async fn trust(command: &TrustCommand) -> anyhow::Result<ExitCode> {
    let (args, response) = match command {
        TrustCommand::Show(args) => (args, request(args, Method::GET, "status.json", None).await?),
        TrustCommand::Sync(args) => (args, request(args, Method::POST, "trust/sync", None).await?),
        TrustCommand::Diff(args) => {
            let list = wire::parse(&list_response(&args.read().await?))
                .with_context(|| args.response.clone())?;
            expect_configurations(&args.response, &list)?;
            let body = json!({ "answer": list, "source": args.source });
            (&args.admin, request(&args.admin, Method::POST, "trust/diff", Some(body)).await?)
        }
        TrustCommand::Approve { source, digest, admin } => {
            let body = json!({ "source": source, "digest": digest });
            (admin, request(admin, Method::POST, "trust/approve", Some(body)).await?)
        }
    };
    if !args.output().print(&response) {
        match command {
            TrustCommand::Show(_) => show_trust(&response),
            TrustCommand::Diff(_) => show_diff(&response),
            TrustCommand::Sync(_) => trust_actions::show_sync(&response),
            TrustCommand::Approve { .. } => trust_actions::show_approval(&response),
        }
    }
    let failed = |source: &Value| source["error"].is_string() || source["devicesError"].is_string();
    let sources = response.as_object().into_iter().flatten();
    Ok(match command {
        TrustCommand::Sync(_) if sources.map(|(_, source)| source).any(failed) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// Runs `crl show`, `crl inspect` and `crl refresh`.
///
/// # Errors
/// The gateway does not respond, or no authority names the address.
pub(super) async fn crl(command: &CrlCommand) -> anyhow::Result<ExitCode> {
    let (args, lists) = match command {
        CrlCommand::Show(args) => {
            let status = request(args, Method::GET, "status.json", None).await?;
            (args, status["revocation"].clone())
        }
        CrlCommand::Inspect(args) => return Ok(run_inspect(args)),
        CrlCommand::Refresh { address, accept_rollback, admin } => {
            let body = json!({ "address": address, "acceptRollback": accept_rollback });
            (admin, request(admin, Method::POST, "crl/refresh", Some(body)).await?)
        }
    };
    let all = lists.as_array().map(Vec::as_slice).unwrap_or_default();
    if !args.output().print(&lists) {
        let now = Timestamp::from(SystemTime::now());
        all.iter().for_each(|list| show_status(list, now));
        if all.is_empty() {
            no_objects("revocation lists: no authority in force names an address");
        }
    }
    let failed = all.iter().any(|list| list["lastError"].is_object());
    Ok(match command {
        CrlCommand::Refresh { .. } if failed => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn show_trust(status: &Value) {
    println!("generation {}, started {}", status["trust"]["generation"], text(&status["started"]));
    for source in status["sources"].as_array().into_iter().flatten() {
        println!(
            "source {}  {}, {}, last confirmed {}",
            text(&source["source"]),
            counted(&source["configurations"], "configuration"),
            counted(&source["anchors"], "anchor"),
            text(&source["last_success"])
        );
        if source["last_error"].is_string() {
            println!("  last error  {}", text(&source["last_error"]));
        }
        if let Some(n) = source["ambiguous_configurations"].as_u64().filter(|n| *n > 0) {
            println!("  {n} configurations share an authority with another one");
        }
        show_held(source, &source["held_back"]);
        show_held(source, &source["devices"]["held_back"]);
        let devices = &source["devices"];
        if devices.is_object() {
            println!(
                "  devices  {} known, {} enabled, {} disabled, {} duplicates, last confirmed {}",
                devices["known"],
                devices["enabled"],
                devices["disabled"],
                devices["duplicates"],
                text(&devices["last_success"])
            );
        }
    }
    let trust = &status["trust"];
    let all = |name: &str| trust[name].as_array().into_iter().flatten().collect::<Vec<_>>();
    let configurations = [all("configurations"), all("applicationConfigurations")].concat();
    if configurations.is_empty() {
        no_objects("configurations in force");
    }
    for configuration in configurations {
        println!(
            "{}  {}  {} devices  {}",
            text(&configuration["id"]),
            text(&configuration["subjectField"]),
            text(&configuration["devices"]),
            text(&configuration["displayName"])
        );
        for authority in configuration["authorities"].as_array().into_iter().flatten() {
            let kind = if authority["root"] == json!(true) { "anchor" } else { "issuer" };
            println!(
                "  {kind}  {}  until {}  {}  lists: {}",
                text(&authority["subject"]),
                text(&authority["notAfter"]),
                text(&authority["fingerprint"]),
                text(&authority["revocation"]["mode"])
            );
        }
    }
    for entry in texts(&status["trust"]["unmatchedRevocationEntries"]) {
        println!("revocation.authority matches no authority: {entry}");
    }
    for skipped in [all("skipped"), all("skippedApplications")].concat() {
        println!("not in force: {}: {}", text(&skipped["id"]), text(&skipped["why"]));
    }
}

/// Shows a change that waits for approval, and the command that approves it.
fn show_held(source: &Value, held: &Value) {
    if !held.is_object() {
        return;
    }
    println!("  held back since {}:", text(&held["since"]));
    for line in texts(&held["changes"]["lines"]) {
        println!("    {line}");
    }
    if let Some(lost) = held["changes"]["revocation_lost"].as_u64().filter(|lost| *lost > 0) {
        println!("    revocation checking would be lost for {lost} authorities");
    }
    if let Some(configurations) = newly_ambiguous(&held["changes"]) {
        println!("    devices of {configurations} configurations would be ambiguous");
    }
    println!("    {}", approval(&text(&source["source"]), held));
}

/// Number of configurations whose devices a change makes ambiguous.
fn newly_ambiguous(changes: &Value) -> Option<u64> {
    changes["newly_ambiguous"].as_u64().filter(|configurations| *configurations > 0)
}

fn show_diff(preview: &Value) {
    let changes = &preview["changes"];
    let lines = texts(&changes["lines"]);
    for line in &lines {
        println!("{line}");
    }
    for skipped in preview["skipped"].as_array().into_iter().flatten() {
        println!("not in force: {}: {}", text(&skipped["configuration"]), text(&skipped["why"]));
    }
    if lines.is_empty() {
        println!("no change to what is in force from {}", text(&preview["source"]));
        return;
    }
    println!(
        "compared with what is in force from {}: {} anchors added, {} of {} removed",
        text(&preview["source"]),
        changes["anchors_added"],
        changes["anchors_removed"],
        changes["anchors_before"]
    );
    if let Some(lost) = changes["revocation_lost"].as_u64().filter(|lost| *lost > 0) {
        println!("revocation checking would be lost for {lost} authorities");
    }
    if let Some(configurations) = newly_ambiguous(changes) {
        println!("devices of {configurations} configurations would be ambiguous");
    }
    if preview["held_back"] == json!(true) {
        println!("it would be held back until `anchorgate trust approve`");
    }
}

impl DiffArgs {
    /// Reads or fetches the response.
    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        let is_url = ["http://", "https://"].iter().any(|s| self.response.starts_with(s));
        if is_url {
            return self.fetch().await;
        }
        ensure!(
            self.token_file.is_none() && self.ca_bundle.is_none(),
            "--token-file and --ca-bundle are for a URL, and `{}` is a file",
            self.response
        );
        Ok(read_input(Path::new(&self.response), MAX_LIST_RESPONSE as u64)?)
    }

    async fn fetch(&self) -> anyhow::Result<Vec<u8>> {
        let mut client =
            ClientSettings { proxy: ProxyChoice::Environment, ..ClientSettings::default() };
        if let Some(file) = &self.ca_bundle {
            client.authorities = ServerAuthorities::Only(read_ca_bundle(file)?);
        }
        let url = list_url(&self.response)?;
        let mut request = client.client()?.get(url.clone());
        if let Some(file) = &self.token_file {
            request = request.bearer_auth(read_secret(file)?.expose());
        }
        let response = request.send().await.with_context(|| format!("no response from {url}"))?;
        let status = response.status();
        ensure!(
            status.is_success(),
            "{url}: {status}; the URL must be that of a directory, or of its list, which ends with {}",
            Collection::MutualTlsOauth.path()
        );
        read_limited(response, MAX_LIST_RESPONSE).await.with_context(|| url.to_string())
    }
}

/// The URL of a list: `url`, or below it if it is that of a directory.
fn list_url(url: &str) -> anyhow::Result<Url> {
    let mut url: Url = url.parse().with_context(|| url.to_owned())?;
    if ["", "/beta"].contains(&url.path().trim_end_matches('/')) {
        url.set_path(Collection::MutualTlsOauth.path());
    }
    Ok(url)
}

/// Sends a request to the gateway, and returns the JSON of the response.
pub(super) async fn request(
    args: &AdminArgs,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    args.gateway.request(method, path, body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_directory_leads_to_its_list() {
        let list = "https://h/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations";
        for url in ["https://h", "https://h/", "https://h/beta", "https://h/beta/", list] {
            assert_eq!(list_url(url).expect("a URL").as_str(), list, "{url}");
        }
        assert_eq!(list_url("https://h/x.json").expect("a URL").as_str(), "https://h/x.json");
    }
}
