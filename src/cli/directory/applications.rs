//! `anchorgate directory application …`: the authorities of applications' certificates.
//!
//! These authorities are objects of their own.  One is added or removed without writing the whole
//! list, so concurrent changes of two administrators are not lost.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::directory::access::{Access, UsageError, configuration_id};
use crate::cli::directory::authority::{fingerprint, named, usable};
use crate::cli::directory::output;
use crate::cli::terminal::text;
use crate::graph::client::Client;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

const PATH: [&str; 3] =
    ["directory", "certificateAuthorities", "certificateBasedApplicationConfigurations"];
const AUTHORITIES: &str = "trustedCertificateAuthorities";

/// Actions on application configurations.
#[derive(Debug, Subcommand)]
pub(super) enum ApplicationCommand {
    /// List all configurations
    List,
    /// Print one configuration
    Get {
        /// Id of the configuration
        id: String,
    },
    /// Create a configuration
    Create {
        /// Display name
        #[arg(long)]
        name: String,
        /// Description
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Certificate of an authority; repeatable. Exactly one must be a root
        #[arg(long = "ca", value_name = "FILE", required = true)]
        authorities: Vec<PathBuf>,
    },
    /// Change the name or description of a configuration
    #[command(group = clap::ArgGroup::new("new").required(true).multiple(true))]
    Update {
        /// Id of the configuration
        id: String,
        /// New display name
        #[arg(long, group = "new")]
        name: Option<String>,
        /// Description
        #[arg(long, value_name = "TEXT", group = "new")]
        description: Option<String>,
    },
    /// Delete a configuration: its applications are refused from then on
    Delete {
        /// Id of the configuration
        id: String,
    },
    /// Add an authority to a configuration
    AddCa {
        /// Id of the configuration
        id: String,
        /// File of the certificate
        authority: PathBuf,
        /// Authority to replace in one step: a file, or its SHA-256 in hexadecimal. A configuration
        /// has only one root
        #[arg(long, value_name = "FILE|SHA256")]
        replace: Option<String>,
    },
    /// Remove an authority from a configuration
    RemoveCa {
        /// Id of the configuration
        id: String,
        /// File of the certificate, or its SHA-256 in hexadecimal
        #[arg(value_name = "FILE|SHA256")]
        authority: String,
    },
}

/// Runs `directory application …`.
pub(super) async fn application(
    access: &Access,
    command: &ApplicationCommand,
    now: Timestamp,
) -> anyhow::Result<ExitCode> {
    let element = |path: &PathBuf| {
        let (certificate, is_root) = usable(path, now)?;
        let certificate = STANDARD.encode(certificate.der());
        anyhow::Ok(json!({ "certificate": certificate, "isRootAuthority": is_root }))
    };
    let result = match command {
        ApplicationCommand::List => list(&access.client()?).await?,
        ApplicationCommand::Get { id } => {
            configuration_id(id)?;
            get(&access.client()?, id).await?
        }
        ApplicationCommand::Create { name, description, authorities } => {
            let authorities: Vec<_> =
                authorities.iter().map(element).collect::<anyhow::Result<_>>()?;
            let roots = authorities.iter().filter(|a| a["isRootAuthority"] == true).count();
            if roots != 1 {
                let why = format!("{roots} of the files are roots; exactly one must be");
                return Err(UsageError(why).into());
            }
            let body = json!({
                "@odata.type": "#microsoft.graph.certificateBasedApplicationConfiguration",
                "displayName": name,
                "description": description,
                AUTHORITIES: authorities,
            });
            let client = access.client()?;
            let created =
                client.operate(Method::POST, &client.at(&PATH, ""), Some(&body), None).await?;
            get(&client, created["id"].as_str().context("the directory's response contains no id")?)
                .await?
        }
        ApplicationCommand::Update { id, name, description } => {
            configuration_id(id)?;
            let mut body = Map::new();
            for (member, value) in [("displayName", name), ("description", description)] {
                body.extend(value.as_ref().map(|value| (member.into(), value[..].into())));
            }
            let client = access.client()?;
            client.operate(Method::PATCH, &at(&client, &[id]), Some(&body.into()), None).await?;
            get(&client, id).await?
        }
        ApplicationCommand::Delete { id } => {
            configuration_id(id)?;
            let client = access.client()?;
            client.operate(Method::DELETE, &at(&client, &[id]), None, None).await?;
            output::deleted(id, access.output());
            return Ok(ExitCode::SUCCESS);
        }
        ApplicationCommand::AddCa { id, authority, replace } => {
            configuration_id(id)?;
            let new = element(authority)?;
            let replace = replace.as_deref().map(named).transpose()?;
            let client = access.client()?;
            add(&client, id, &new, replace).await?;
            get(&client, id).await?
        }
        ApplicationCommand::RemoveCa { id, authority } => {
            configuration_id(id)?;
            let wanted = named(authority)?;
            let client = access.client()?;
            let found = find(&authorities(&client, id).await?, &wanted)?;
            let url = at(&client, &[id, AUTHORITIES, &found]);
            client.operate(Method::DELETE, &url, None, None).await?;
            get(&client, id).await?
        }
    };
    output::objects(&result, access.output(), "application configurations", show);
    Ok(ExitCode::SUCCESS)
}

/// All configurations with their authorities.  These are read one by one, because a directory may
/// abbreviate expanded members.
async fn list(client: &Client) -> anyhow::Result<Value> {
    let (mut all, mut next) = (Vec::new(), Some(client.at(&PATH, "")));
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        ensure!(link.as_ref() != Some(&url), "the pages of the list form a loop");
        for object in page {
            let id = object["id"]
                .as_str()
                .context("an object in the directory's response has no id")?
                .to_owned();
            all.push(with_authorities(client, &id, object).await?);
        }
        next = link;
    }
    Ok(all.into())
}

async fn get(client: &Client, id: &str) -> anyhow::Result<Value> {
    let found = client.operate(Method::GET, &at(client, &[id]), None, None).await?;
    with_authorities(client, id, found).await
}

async fn with_authorities(client: &Client, id: &str, mut object: Value) -> anyhow::Result<Value> {
    ensure!(object.is_object(), "the directory's response is not an object");
    object[AUTHORITIES] = authorities(client, id).await?.into();
    Ok(object)
}

async fn authorities(client: &Client, id: &str) -> anyhow::Result<Vec<Value>> {
    let (mut all, mut next) = (Vec::new(), Some(at(client, &[id, AUTHORITIES])));
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        ensure!(link.as_ref() != Some(&url), "the pages of the list form a loop");
        all.extend(page);
        next = link;
    }
    Ok(all)
}

async fn add(
    client: &Client,
    id: &str,
    new: &Value,
    replace: Option<Fingerprint>,
) -> anyhow::Result<()> {
    let list = authorities(client, id).await?;
    let is_there = list.iter().any(|old| fingerprint(old) == fingerprint(new));
    let is_root = |authority: &Value| authority["isRootAuthority"] == true;
    let (method, url) = match replace {
        Some(old) if is_there => {
            bail!("the configuration already has this authority; {old} was not changed")
        }
        Some(old) => (Method::PATCH, at(client, &[id, AUTHORITIES, &find(&list, &old)?])),
        None if is_there => return Ok(()),
        None => {
            let root = list.iter().find(|old| is_root(old) && is_root(new)).and_then(fingerprint);
            if let Some(root) = root {
                bail!("the configuration already has its only root; use --replace {root}");
            }
            (Method::POST, at(client, &[id, AUTHORITIES]))
        }
    };
    client.operate(method, &url, Some(new), None).await?;
    Ok(())
}

/// The id of the authority with this certificate.
fn find(list: &[Value], wanted: &Fingerprint) -> anyhow::Result<String> {
    let found = list.iter().find(|a| fingerprint(a).as_ref() == Some(wanted));
    let found = found.with_context(|| format!("the configuration has no authority {wanted}"))?;
    Ok(found["id"]
        .as_str()
        .context("an authority in the directory's response has no id")?
        .to_owned())
}

fn at(client: &Client, below: &[&str]) -> url::Url {
    let segments: Vec<&str> = PATH.iter().chain(below).copied().collect();
    client.at(&segments, "")
}

fn show(object: &Value) {
    println!(
        "{}  {}  {}",
        text(&object["id"]),
        text(&object["displayName"]),
        text(&object["description"])
    );
    output::authorities(&object[AUTHORITIES]);
}
