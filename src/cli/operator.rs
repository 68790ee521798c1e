//! Commands that ask a running gateway, through its admin plane: `ready`, `trust`, `crl show|refresh`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::crl::{InspectArgs, inspect, show_status};
use crate::cli::gateway::Gateway;
use crate::graph::wire;
use crate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities, read_limited};
use crate::x509::time::Timestamp;

/// Bytes of a list answer that are compared: the admin plane takes 16 MiB with what is around it.
const MAX_ANSWER: usize = 15 * 1024 * 1024;

/// Which gateway is asked, and how its answer is printed.
#[derive(Debug, Args)]
pub struct AdminArgs {
    #[command(flatten)]
    gateway: Gateway,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `ready`.
#[derive(Debug, Args)]
pub struct ReadyArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to do with the trust in force.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// What is in force, from where, since when
    Show(AdminArgs),
    /// Ask the directories now; exit status 1 when one of them failed
    Sync(AdminArgs),
    /// Tell what a list answer of a directory would change if it came now; changes nothing
    Diff(DiffArgs),
    /// Put an answer in force that was held back because it removes too much
    Approve {
        /// The source whose answer it is; the only one when left out
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Which gateway
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Arguments of `trust diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The answer: a file, `-` for standard input, or an http or https address to get it from
    #[arg(value_name = "FILE|URL")]
    answer: String,
    /// A file with a bearer token for the address
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM of the only authorities that the address's server may have
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// The source it stands for; the only one when left out
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Which gateway
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to do with revocation lists.
#[derive(Debug, Subcommand)]
pub enum CrlCommand {
    /// Numbers, entries, ages, the next look and the last error of each address
    Show(AdminArgs),
    /// Tell what is in a list, and why it would not be used; asks no gateway
    Inspect(InspectArgs),
    /// Fetch one address, or all, now; exit status 1 when a look failed
    Refresh {
        /// The address, as the authorities name it; all when left out
        #[arg(value_name = "URL")]
        address: Option<String>,
        /// Take the list that is there though its number or time went back, or another key signed it:
        /// its issuer was restored or replaced.  Be sure that it is no old list that comes back
        #[arg(long, requires = "address")]
        anew: bool,
        /// Which gateway
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `ready`: exit status 0 when the gateway is.
///
/// # Errors
/// It is not, or cannot be asked.
pub async fn ready(args: &ReadyArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(&args.admin, Method::GET, "readyz", None).await?;
    let missing: Vec<_> = texts(&answer["missing"]);
    if answer["ready"] == json!(true) {
        println!("ready");
        return Ok(ExitCode::SUCCESS);
    }
    println!("not ready: {} missing", missing.join(", "));
    Ok(ExitCode::FAILURE)
}

/// `trust …`
///
/// # Errors
/// The gateway cannot be asked, or refuses.
pub async fn trust(command: &TrustCommand) -> anyhow::Result<ExitCode> {
    let (args, answer) = match command {
        TrustCommand::Show(args) => (args, ask(args, Method::GET, "status.json", None).await?),
        TrustCommand::Sync(args) => (args, ask(args, Method::POST, "trust/sync", None).await?),
        TrustCommand::Diff(args) => {
            let answer = wire::parse(&args.read().await?).context("the list answer")?;
            let body = json!({ "answer": answer, "source": args.source });
            (&args.admin, ask(&args.admin, Method::POST, "trust/diff", Some(body)).await?)
        }
        TrustCommand::Approve { source, admin } => {
            let body = json!({ "source": source });
            (admin, ask(admin, Method::POST, "trust/approve", Some(body)).await?)
        }
    };
    match command {
        TrustCommand::Show(_) if !args.json => show_trust(&answer),
        TrustCommand::Diff(_) if !args.json => show_diff(&answer),
        _ => println!("{answer:#}"),
    }
    let failed = |source: &Value| source["error"].is_string() || source["devicesError"].is_string();
    let sources = answer.as_object().into_iter().flatten();
    Ok(match command {
        TrustCommand::Sync(_) if sources.map(|(_, source)| source).any(failed) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// `crl show` and `crl refresh`.
///
/// # Errors
/// The gateway cannot be asked, or no authority names the address.
pub async fn crl(command: &CrlCommand) -> anyhow::Result<ExitCode> {
    let (args, lists) = match command {
        CrlCommand::Show(args) => {
            let status = ask(args, Method::GET, "status.json", None).await?;
            (args, status["revocation"].clone())
        }
        CrlCommand::Inspect(args) => return inspect(args),
        CrlCommand::Refresh { address, anew, admin } => {
            let body = json!({ "address": address, "anew": anew });
            (admin, ask(admin, Method::POST, "crl/refresh", Some(body)).await?)
        }
    };
    let all = lists.as_array().map(Vec::as_slice).unwrap_or_default();
    if args.json {
        println!("{lists:#}");
    } else {
        let now = Timestamp::from(SystemTime::now());
        all.iter().for_each(|list| show_status(list, now));
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
        println!("source {source}");
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
    for configuration in [all("configurations"), all("applicationConfigurations")].concat() {
        println!(
            "{}  {}  {} devices  {}",
            text(&configuration["id"]),
            configuration["subjectField"].as_str().unwrap_or("applications"),
            configuration["devices"].as_str().unwrap_or("no"),
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
        println!("revocation.authority fits nobody: {entry}");
    }
    for skipped in [all("skipped"), all("skippedApplications")].concat() {
        println!("not in force: {}: {}", text(&skipped["id"]), text(&skipped["why"]));
    }
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
        println!("no change against what is in force from {}", text(&preview["source"]));
        return;
    }
    println!(
        "against what is in force from {}: {} anchors added, {} of {} removed",
        text(&preview["source"]),
        changes["anchors_added"],
        changes["anchors_removed"],
        changes["anchors_before"]
    );
    if preview["held_back"] == json!(true) {
        println!("it removes too much: it would be held back until `anchorgate trust approve`");
    }
}

impl DiffArgs {
    /// The answer's bytes.
    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        let is_url = ["http://", "https://"].iter().any(|s| self.answer.starts_with(s));
        if is_url {
            return self.get().await;
        }
        ensure!(
            self.token_file.is_none() && self.ca_bundle.is_none(),
            "--token-file and --ca-bundle are for an address, and `{}` is a file",
            self.answer
        );
        let from: Box<dyn Read> = match &*self.answer {
            "-" => Box::new(std::io::stdin()),
            file => Box::new(File::open(file).with_context(|| file.to_owned())?),
        };
        let mut bytes = Vec::new();
        // One byte more than is allowed tells "full" from "too long".
        from.take(MAX_ANSWER as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| self.answer.clone())?;
        ensure!(bytes.len() <= MAX_ANSWER, "{} has more than {MAX_ANSWER} bytes", self.answer);
        Ok(bytes)
    }

    async fn get(&self) -> anyhow::Result<Vec<u8>> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())
        };
        let mut client =
            ClientSettings { proxy: ProxyChoice::Environment, ..ClientSettings::default() };
        if let Some(file) = &self.ca_bundle {
            client.authorities = ServerAuthorities::Only(read(file)?.into_bytes());
        }
        let mut request = client.client()?.get(&self.answer);
        if let Some(file) = &self.token_file {
            request = request.bearer_auth(read(file)?.trim());
        }
        let answer =
            request.send().await.with_context(|| format!("no answer from {}", self.answer))?;
        ensure!(answer.status().is_success(), "{}: {}", self.answer, answer.status());
        read_limited(answer, MAX_ANSWER).await.with_context(|| self.answer.clone())
    }
}

async fn ask(
    args: &AdminArgs,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    args.gateway.ask(method, path, body).await
}

/// A text, or `-`.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
