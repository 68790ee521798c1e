//! `anchorgate directory …`: administration of the trust configurations and devices of a directory,
//! anchorgate's or Microsoft's.

mod access;
mod applications;
mod authority;
mod copies;
mod devices;
mod import;
mod output;
mod registration;
mod templates;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::directory::access::{Access, configuration_id};
use crate::cli::directory::applications::ApplicationCommand;
use crate::cli::directory::authority::{AuthorityFile, fingerprint, named};
use crate::cli::directory::copies::{BackupArgs, RestoreArgs};
use crate::cli::directory::devices::DeviceCommand;
use crate::cli::directory::templates::TemplateCommand;
use crate::cli::terminal::text;
use crate::graph::client::{Client, FetchError};
use crate::runtime::random::jitter;
use crate::trust::subject::SubjectField;
use crate::x509::time::Timestamp;

pub(super) use access::UsageError;

/// Attempts of a read-modify-write cycle that another client's write interrupts.
const ATTEMPTS: usize = 16;
/// Longest pause before the next attempt.  It is random, so that two clients do not stay in step.
const PAUSE: Duration = Duration::from_millis(200);

/// List, read and change the trust configurations and devices of a directory, anchorgate's or
/// Microsoft's
///
/// Certificates are PEM or DER files. Each is checked before anything is sent. A certificate that
/// is signed with its own key is a root, any other an intermediate.
#[derive(Debug, Args)]
pub(super) struct DirectoryArgs {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: DirectoryCommand,
}

/// Actions on a directory.
#[derive(Debug, Subcommand)]
enum DirectoryCommand {
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
        /// Certificate field that identifies a device, such as tls_client_auth_san_uri
        #[arg(long, value_parser = field)]
        field: SubjectField,
        /// Authority: FILE, or FILE,crl=URL,delta=URL; repeatable
        #[arg(long = "ca", value_name = "FILE[,crl=URL[,delta=URL]]")]
        authorities: Vec<AuthorityFile>,
    },
    /// Rename a configuration
    Update {
        /// Id of the configuration
        id: String,
        /// New display name
        #[arg(long)]
        name: String,
    },
    /// Delete a configuration: its devices are refused from then on
    Delete {
        /// Id of the configuration
        id: String,
    },
    /// Add an authority to a configuration, or change its revocation addresses
    AddCa {
        /// Id of the configuration
        id: String,
        /// FILE, or FILE,crl=URL,delta=URL
        #[arg(value_name = "FILE[,crl=URL[,delta=URL]]")]
        authority: AuthorityFile,
    },
    /// Remove an authority from a configuration
    RemoveCa {
        /// Id of the configuration
        id: String,
        /// File of the certificate, or its SHA-256 in hexadecimal
        #[arg(value_name = "FILE|SHA256")]
        authority: String,
    },
    /// List, read and change the trust of applications (certificateBasedApplicationConfiguration)
    #[command(subcommand)]
    Application(ApplicationCommand),
    /// List, register, enable, disable and delete devices
    ///
    /// A device is selected by its externalDeviceId, which is compared with the subject ID of its
    /// certificate. If no device has that, the argument is an object id.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// List, create and delete the templates that devices are created from
    #[command(subcommand)]
    DeviceTemplate(TemplateCommand),
    /// Write everything in the embedded directory of a gateway to a file, while it runs
    Backup(BackupArgs),
    /// Replace everything in the embedded directory of a gateway by a backup
    ///
    /// The backup is checked first. Gateways that follow the directory then read everything again.
    Restore(RestoreArgs),
}

fn field(text: &str) -> Result<SubjectField, String> {
    SubjectField::parse(text).ok_or_else(|| {
        let names: Vec<_> = SubjectField::ALL.iter().map(|field| field.as_str()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// Runs `directory …`.
///
/// # Errors
/// A file does not contain a usable authority, or the directory rejects the request.  [`UsageError`] if
/// the command line is not valid.
pub(super) async fn directory(args: &DirectoryArgs) -> anyhow::Result<ExitCode> {
    let output = args.access.output();
    let now = Timestamp::from(SystemTime::now());
    // Arguments and files are checked first, so that nothing is sent if one of them is wrong.
    let result = match &args.command {
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
            let client = args.access.client()?;
            warn_of_shared_authorities(&client, &body["certificateAuthorities"]).await;
            client.call(Method::POST, "", Some(&body), None).await?
        }
        DirectoryCommand::Update { id, name } => {
            configuration_id(id)?;
            let body = json!({ "displayName": name });
            args.access.client()?.call(Method::PATCH, id, Some(&body), None).await?
        }
        DirectoryCommand::Delete { id } => {
            configuration_id(id)?;
            args.access.client()?.call(Method::DELETE, id, None, None).await?;
            output::deleted(id, output);
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
            return devices::device(args.access.client()?, command, output).await;
        }
        DirectoryCommand::DeviceTemplate(command) => {
            return templates::template(&args.access.client()?, command, output).await;
        }
        DirectoryCommand::Backup(command) => return copies::back_up(command, output).await,
        DirectoryCommand::Restore(command) => return copies::restore(command, output).await,
    };
    output::objects(&result, output, "configurations", show);
    Ok(ExitCode::SUCCESS)
}

/// Warns of each authority that another configuration has, before it is added to a new one.
async fn warn_of_shared_authorities(client: &Client, new: &Value) {
    let objects = match client.objects().await {
        Ok(objects) => objects,
        Err(error) => {
            eprintln!(
                "warning: not checked whether another configuration has the authorities: {error}"
            );
            return;
        }
    };
    for authority in new.as_array().into_iter().flatten().filter_map(fingerprint) {
        let has = |object: &&Value| {
            let list = object["certificateAuthorities"].as_array().into_iter().flatten();
            list.filter_map(fingerprint).any(|other| other == authority)
        };
        for other in objects.iter().filter(has) {
            eprintln!(
                "warning: the authority with SHA-256 {authority} is also in configuration {} `{}`: a device \
                 that both accept is refused (configuration_ambiguous) unless its client_id selects one",
                text(&other["id"]),
                text(&other["displayName"])
            );
        }
    }
}

/// Reads the list of authorities, changes it, and writes all of it, as Graph's documentation
/// describes.  With entity tags, changes of other clients are not lost.  Without them, the result
/// is checked.
async fn change_authorities(
    client: &Client,
    id: &str,
    change: impl Fn(Vec<Value>) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<Value> {
    for _ in 0..ATTEMPTS {
        let read = client.call(Method::GET, id, None, None).await?;
        let tag = read["@odata.etag"].as_str();
        let list = read["certificateAuthorities"]
            .as_array()
            .context("the directory's response contains no list")?;
        for old in list {
            ensure!(
                fingerprint(old).is_some(),
                "the directory's response omits the certificate of an authority, so the list cannot be \
                 written without losing it"
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
                    "the list was changed by another client: check it and try again"
                );
                return Ok(now);
            }
        }
    }
    bail!("other clients changed the configuration in each of {ATTEMPTS} attempts; try again later")
}

/// The members of an element that are written back.  The directory computes the others.
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
    println!(
        "{}  {}  {}",
        text(&object["id"]),
        text(&object["tlsClientAuthParameter"]),
        text(&object["displayName"])
    );
    output::authorities(&object["certificateAuthorities"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_members_are_not_written_back() {
        let element = json!({"certificate": "AA", "isRootAuthority": true, "issuer": "CN=x",
            "issuerSki": "00", "certificateRevocationListUrl": null});
        let sent = sendable(&element);
        assert_eq!(sent.as_object().map(Map::len), Some(3));
        assert!(sent.get("issuer").is_none());
    }
}
