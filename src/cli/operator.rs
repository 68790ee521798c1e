//! Commands that ask a running gateway, through its admin plane: `ready`, `trust`, `crl show|refresh`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::cli::crl::{InspectArgs, inspect};

/// Where the admin plane is.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The admin plane of the running gateway
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9090",
        env = "ANCHORGATE_ADMIN"
    )]
    admin: Url,
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
    /// Ask the directories now
    Sync(AdminArgs),
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

/// What to do with revocation lists.
#[derive(Debug, Subcommand)]
pub enum CrlCommand {
    /// Numbers, entries, ages, the next look and the last error of each address
    Show(AdminArgs),
    /// Tell what is in a list, and why it would not be used; asks no gateway
    Inspect(InspectArgs),
    /// Fetch one address, or all, now
    Refresh {
        /// The address, as the authorities name it; all when left out
        #[arg(value_name = "URL")]
        address: Option<String>,
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
        TrustCommand::Approve { source, admin } => {
            let body = json!({ "source": source });
            (admin, ask(admin, Method::POST, "trust/approve", Some(body)).await?)
        }
    };
    match command {
        TrustCommand::Show(_) if !args.json => show_trust(&answer),
        _ => println!("{answer:#}"),
    }
    Ok(ExitCode::SUCCESS)
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
        CrlCommand::Refresh { address, admin } => {
            let body = json!({ "address": address });
            (admin, ask(admin, Method::POST, "crl/refresh", Some(body)).await?)
        }
    };
    if args.json {
        println!("{lists:#}");
        return Ok(ExitCode::SUCCESS);
    }
    for list in lists.as_array().into_iter().flatten() {
        show_list(list);
    }
    Ok(ExitCode::SUCCESS)
}

fn show_trust(status: &Value) {
    println!("generation {}, started {}", status["trust"]["generation"], text(&status["started"]));
    for source in status["sources"].as_array().into_iter().flatten() {
        println!("source {source}");
    }
    for configuration in status["trust"]["configurations"].as_array().into_iter().flatten() {
        println!(
            "{}  {}  {}",
            text(&configuration["id"]),
            text(&configuration["subjectField"]),
            text(&configuration["displayName"])
        );
        for authority in configuration["authorities"].as_array().into_iter().flatten() {
            let kind = if authority["root"] == json!(true) { "anchor" } else { "issuer" };
            println!(
                "  {kind}  {}  until {}  {}",
                text(&authority["subject"]),
                text(&authority["notAfter"]),
                text(&authority["fingerprint"])
            );
        }
    }
    for skipped in status["trust"]["skipped"].as_array().into_iter().flatten() {
        println!("not in force: {}: {}", text(&skipped["id"]), text(&skipped["why"]));
    }
}

fn show_list(status: &Value) {
    println!("{}", text(&status["address"]));
    let list = &status["list"];
    if list.is_null() {
        println!("  no list");
    } else {
        println!(
            "  {} of {}: number {}, {} entries, {} to {}",
            text(&list["kind"]),
            text(&list["issuer"]),
            text(&list["number"]),
            list["entries"],
            text(&list["thisUpdate"]),
            text(&list["nextUpdate"])
        );
    }
    println!("  next look {}", text(&status["nextFetch"]));
    if let Some(error) = status["lastError"].as_object() {
        println!("  last error {}", Value::Object(error.clone()));
    }
}

async fn ask(
    args: &AdminArgs,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    ask_at(&args.admin, method, path, body).await
}

/// Asks the admin plane at `admin`.
pub(super) async fn ask_at(
    admin: &Url,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let url = admin.join(path)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(120))
        .build()
        .context("HTTP client")?;
    let mut request = client.request(method, url.clone());
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.with_context(|| format!("no gateway answers at {url}"))?;
    let status = answer.status();
    let body: Value = answer.json().await.with_context(|| format!("{url} answers no JSON"))?;
    // 503 is how `/readyz` says "not yet".
    if !status.is_success() && status != 503 {
        bail!("{url}: {status}: {}", text(&body["error"]));
    }
    Ok(body)
}

/// A text, or `-`.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
