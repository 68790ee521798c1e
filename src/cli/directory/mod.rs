//! `anchorgate directory …`: an administrator's hand on the trust configurations and the devices of a
//! directory, ours or Microsoft's.

mod access;
mod applications;
mod authority;
mod devices;
mod import;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::directory::access::Access;
use crate::cli::directory::applications::ApplicationCommand;
use crate::cli::directory::authority::{AuthorityFile, fingerprint, named};
use crate::cli::directory::devices::{DeviceCommand, TemplateCommand};
use crate::graph::client::{Client, FetchError};
use crate::graph::wire;
use crate::runtime::random::{is_guid, jitter};
use crate::trust::subject::SubjectField;
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

pub use access::Usage;

/// Times that a read-modify-write is tried when somebody else writes in between.
const TRIES: usize = 16;
/// The longest pause before another one, so that two do not stay in step.
const PAUSE: Duration = Duration::from_millis(200);

/// List, read and change the trust configurations and devices of a directory, ours or Microsoft's
///
/// Certificates are PEM or DER files; each is checked here, and what is wrong with it said, before
/// anything is sent. A certificate that is signed with its own key is a root, any other an intermediate.
#[derive(Debug, Args)]
pub struct DirectoryArgs {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: DirectoryCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum DirectoryCommand {
    /// Every configuration
    List,
    /// One configuration
    Get {
        /// Its id
        id: String,
    },
    /// Make a configuration
    Create {
        /// Its display name
        #[arg(long)]
        name: String,
        /// The certificate field that names a device, such as tls_client_auth_san_uri
        #[arg(long, value_parser = field)]
        field: SubjectField,
        /// An authority: FILE, or FILE,crl=URL,delta=URL; repeatable
        #[arg(long = "ca", value_name = "FILE[,crl=URL[,delta=URL]]")]
        authorities: Vec<AuthorityFile>,
    },
    /// Rename a configuration
    Update {
        /// Its id
        id: String,
        /// Its new display name
        #[arg(long)]
        name: String,
    },
    /// Delete a configuration: its devices are refused from then on
    Delete {
        /// Its id
        id: String,
    },
    /// Add an authority to a configuration, or change its revocation addresses
    AddCa {
        /// The configuration's id
        id: String,
        /// FILE, or FILE,crl=URL,delta=URL
        #[arg(value_name = "FILE[,crl=URL[,delta=URL]]")]
        authority: AuthorityFile,
    },
    /// Take an authority out of a configuration
    RemoveCa {
        /// The configuration's id
        id: String,
        /// The certificate's file, or its SHA-256 in hexadecimal
        #[arg(value_name = "FILE|SHA256")]
        authority: String,
    },
    /// List, read and change the trust of applications (certificateBasedApplicationConfiguration)
    #[command(subcommand)]
    Application(ApplicationCommand),
    /// List, register, enable, disable and delete devices
    ///
    /// A device is named by its externalDeviceId, which the subject ID of its certificate is compared
    /// with; where no device has that, by its object id.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// List, make and delete the templates that devices are made from
    #[command(subcommand)]
    DeviceTemplate(TemplateCommand),
}

fn field(text: &str) -> Result<SubjectField, String> {
    SubjectField::parse(text).ok_or_else(|| {
        let names: Vec<_> = SubjectField::ALL.iter().map(|field| field.as_str()).collect();
        format!("one of {} is expected", names.join(", "))
    })
}

/// `directory …`
///
/// # Errors
/// A file that is no authority, or a directory that does not do it; [`Usage`] where the command line
/// makes no sense.
pub async fn directory(args: &DirectoryArgs) -> anyhow::Result<ExitCode> {
    let json = args.access.json;
    let now = Timestamp::from(SystemTime::now());
    // Arguments and files first: nothing is sent when one of them is wrong.
    let answer = match &args.command {
        DirectoryCommand::List => Value::Array(args.access.client()?.objects().await?),
        DirectoryCommand::Get { id } => {
            configuration_id(id)?;
            args.access.client()?.call(Method::GET, id, None, None).await?
        }
        DirectoryCommand::Create { name, field, authorities } => {
            let files = authorities.iter().map(|file| file.element(now));
            let body = json!({
                "@odata.type": "#microsoft.graph.mutualTlsOauthConfiguration",
                "displayName": name,
                "tlsClientAuthParameter": field.as_str(),
                "certificateAuthorities": files.collect::<anyhow::Result<Vec<_>>>()?,
            });
            args.access.client()?.call(Method::POST, "", Some(&body), None).await?
        }
        DirectoryCommand::Update { id, name } => {
            configuration_id(id)?;
            let body = json!({ "displayName": name });
            args.access.client()?.call(Method::PATCH, id, Some(&body), None).await?
        }
        DirectoryCommand::Delete { id } => {
            configuration_id(id)?;
            args.access.client()?.call(Method::DELETE, id, None, None).await?;
            deleted(id, json);
            return Ok(ExitCode::SUCCESS);
        }
        DirectoryCommand::AddCa { id, authority } => {
            configuration_id(id)?;
            let new = authority.element(now)?;
            change_authorities(&args.access.client()?, id, |mut list| {
                list.retain(|old| fingerprint(old) != fingerprint(&new));
                list.push(new.clone());
                Ok(list)
            })
            .await?
        }
        DirectoryCommand::RemoveCa { id, authority } => {
            configuration_id(id)?;
            let wanted = named(authority)?;
            change_authorities(&args.access.client()?, id, |mut list| {
                let before = list.len();
                list.retain(|old| fingerprint(old).as_ref() != Some(&wanted));
                ensure!(list.len() < before, "the configuration has no authority {wanted}");
                Ok(list)
            })
            .await?
        }
        DirectoryCommand::Application(command) => {
            return applications::application(&args.access, command, now).await;
        }
        DirectoryCommand::Device(command) => {
            return devices::device(args.access.client()?, command, json).await;
        }
        DirectoryCommand::DeviceTemplate(command) => {
            return devices::template(&args.access.client()?, command, json).await;
        }
    };
    match (&answer, json) {
        (answer, true) => println!("{answer:#}"),
        (Value::Array(list), false) => list.iter().for_each(show),
        (answer, false) => show(answer),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what is no id before it is sent: an empty one would be the whole collection.
fn configuration_id(id: &str) -> Result<(), Usage> {
    match is_guid(id) {
        true => Ok(()),
        false => Err(Usage(format!("`{id}` is not the id of a configuration, which is a GUID"))),
    }
}

/// Says that an object is gone.
fn deleted(id: &str, as_json: bool) {
    if as_json { println!("{}", json!({ "deleted": id })) } else { println!("deleted") }
}

/// Read, change, write the whole list, as the directory's documentation tells; safe against others who
/// do the same where the directory has entity tags, and checked afterwards where it has none.
async fn change_authorities(
    client: &Client,
    id: &str,
    change: impl Fn(Vec<Value>) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<Value> {
    for _ in 0..TRIES {
        let read = client.call(Method::GET, id, None, None).await?;
        let tag = read["@odata.etag"].as_str();
        let list = read["certificateAuthorities"].as_array().context("an answer without a list")?;
        for old in list {
            ensure!(
                fingerprint(old).is_some(),
                "the directory's answer shortens an authority; to write the list back would lose it"
            );
        }
        let list = change(list.iter().map(sendable).collect())?;
        let body = json!({ "certificateAuthorities": list });
        match client.call(Method::PATCH, id, Some(&body), tag).await {
            Err(FetchError::Status { status: 412, .. }) => {
                tokio::time::sleep(jitter(PAUSE)).await;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let now = client.call(Method::GET, id, None, None).await?;
                let have = now["certificateAuthorities"].as_array().map_or(&[][..], Vec::as_slice);
                let same = have.iter().map(fingerprint).eq(list.iter().map(fingerprint));
                ensure!(
                    same || tag.is_some(),
                    "somebody else has changed the list since: look at it, and try again"
                );
                return Ok(now);
            }
        }
    }
    bail!("others changed the configuration {TRIES} times in a row")
}

/// What of an element is written back: the rest is computed by the directory.
fn sendable(element: &Value) -> Value {
    const MEMBERS: [&str; 4] = [
        "certificate",
        "certificateRevocationListUrl",
        "deltaCertificateRevocationListUrl",
        "isRootAuthority",
    ];
    let member = |&name: &&str| element.get(name).map(|value| (name.to_owned(), value.clone()));
    Value::Object(MEMBERS.iter().filter_map(member).collect::<Map<_, _>>())
}

fn show(object: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    println!(
        "{}  {}  {}",
        text(&object["id"]),
        text(&object["tlsClientAuthParameter"]),
        text(&object["displayName"])
    );
    show_authorities(&object["certificateAuthorities"]);
}

fn show_authorities(list: &Value) {
    for authority in list.as_array().into_iter().flatten() {
        let kind = match authority["isRootAuthority"].as_bool() {
            Some(true) => "root",
            Some(false) => "intermediate",
            None => "?",
        };
        let der = authority["certificate"].as_str().and_then(wire::binary);
        match der.as_deref().map(Certificate::from_der) {
            Some(Ok(c)) => {
                println!(
                    "  {kind}  {}  until {}  sha256 {}",
                    c.subject, c.not_after, c.fingerprint
                );
            }
            _ => println!("  {kind}  a certificate that cannot be read"),
        }
        for (name, member) in [
            ("list", "certificateRevocationListUrl"),
            ("delta", "deltaCertificateRevocationListUrl"),
        ] {
            if let Some(url) = authority[member].as_str() {
                println!("    {name}  {url}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_back_has_no_computed_members() {
        let element = json!({"certificate": "AA", "isRootAuthority": true, "issuer": "CN=x",
            "issuerSki": "00", "certificateRevocationListUrl": null});
        let sent = sendable(&element);
        assert_eq!(sent.as_object().map(Map::len), Some(3));
        assert!(sent.get("issuer").is_none());
    }
}
