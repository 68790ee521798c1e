//! `anchorgate directory device …`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{bail, ensure};
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::cli::directory::registration::{NewDevices, Registration, find_by_name};
use crate::cli::directory::{import, output, templates};
use crate::cli::output::{Output, no_objects};
use crate::cli::terminal::{json_text, text};
use crate::graph::client::{Client, FetchError};
use crate::runtime::random::is_guid;

/// Actions on devices.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// List all devices, or those of one template
    List {
        /// Id of the template
        #[arg(long, value_name = "ID")]
        template: Option<String>,
    },
    /// Print one device
    Get {
        /// The externalDeviceId
        device: String,
    },
    /// Register a device
    Create {
        /// The externalDeviceId
        device: String,
        #[command(flatten)]
        new: NewDevices,
    },
    /// Enable a device: it can obtain tokens
    Enable {
        /// The externalDeviceId
        device: String,
    },
    /// Disable a device, such as a stolen one: it is refused
    Disable {
        /// The externalDeviceId
        device: String,
    },
    /// Delete a device: it is unknown from then on
    Delete {
        /// The externalDeviceId
        device: String,
    },
    /// Register the devices of a file
    ///
    /// Devices that are already registered are reported and not changed, so an interrupted import
    /// can be repeated. A device that cannot be registered, or is registered for another
    /// configuration, is reported with its line, and the exit status is 1. The import stops if the
    /// directory does not respond or denies access.
    Import {
        /// UTF-8 text with one externalDeviceId per line; `-` is standard input
        file: PathBuf,
        #[command(flatten)]
        new: NewDevices,
        /// Concurrent requests
        #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
        parallel: u16,
        /// First line to import, as an import that has stopped reports it
        #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
    },
}

/// Runs `directory device …`.
pub(super) async fn device(
    client: Client,
    command: &DeviceCommand,
    output: Output,
) -> anyhow::Result<ExitCode> {
    match command {
        DeviceCommand::List { template } => list(&client, template.as_deref(), output).await?,
        DeviceCommand::Get { device } => show(&find(&client, device).await?, output),
        DeviceCommand::Create { device, new } => {
            let registration = Registration::new(client, new).await?;
            show(&registration.create(device).await?, output);
        }
        DeviceCommand::Enable { device } => set_enabled(&client, device, true, output).await?,
        DeviceCommand::Disable { device } => set_enabled(&client, device, false, output).await?,
        DeviceCommand::Delete { device } => {
            let found = find(&client, device).await?;
            client.operate(Method::DELETE, &device_url(&client, &found)?, None, None).await?;
            output::deleted(found["id"].as_str().unwrap_or(device), output);
        }
        DeviceCommand::Import { file, new, parallel, from } => {
            let registration = Arc::new(Registration::new(client, new).await?);
            let parallel = usize::from(*parallel);
            return import::import(registration, file, parallel, *from, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints page by page, because all devices of a fleet may not fit into memory.
async fn list(client: &Client, template: Option<&str>, output: Output) -> anyhow::Result<()> {
    let mut next = Some(match template {
        Some(id) => templates::url(client, id, Some("deviceInstances"))?,
        None => client.at(&["devices"], "$top=999"),
    });
    let mut first = true;
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        for device in &page {
            match (output, first) {
                (Output::Json, true) => print!("[\n{}", json_text(&device.to_string())),
                (Output::Json, false) => print!(",\n{}", json_text(&device.to_string())),
                (Output::Yaml, _) => drop(output.print(&Value::Array(vec![device.clone()]))),
                (Output::Table, _) => println!("{}", line(device)),
            }
            first = false;
        }
        ensure!(link.as_ref() != Some(&url), "the pages of the list form a loop");
        next = link;
    }
    match (output, first) {
        (Output::Json | Output::Yaml, true) => println!("[]"),
        (Output::Json, false) => println!("\n]"),
        (Output::Table, true) => no_objects("devices"),
        (Output::Yaml | Output::Table, false) => {}
    }
    Ok(())
}

/// The device with this externalDeviceId, otherwise the one with this object id.
async fn find(client: &Client, device: &str) -> anyhow::Result<Value> {
    if let Some(found) = find_by_name(client, device).await? {
        return Ok(found);
    }
    if !is_guid(device) {
        bail!("no device has the externalDeviceId `{device}`");
    }
    let found = client.operate(Method::GET, &client.at(&["devices", device], ""), None, None).await;
    match found {
        Err(FetchError::Status { status: 404, .. }) => {
            bail!("no device has the externalDeviceId or the object id `{device}`")
        }
        found => Ok(found?),
    }
}

async fn set_enabled(
    client: &Client,
    device: &str,
    enabled: bool,
    output: Output,
) -> anyhow::Result<()> {
    let found = find(client, device).await?;
    let url = device_url(client, &found)?;
    let body = json!({ "accountEnabled": enabled });
    client.operate(Method::PATCH, &url, Some(&body), None).await?;
    let now = client.operate(Method::GET, &url, None, None).await?;
    show(&now, output);
    ensure!(now["accountEnabled"] == enabled, "the device was changed by another client since");
    Ok(())
}

fn device_url(client: &Client, device: &Value) -> anyhow::Result<Url> {
    match device["id"].as_str() {
        Some(id) if is_guid(id) => Ok(client.at(&["devices", id], "")),
        _ => bail!("the directory's response contains no object id"),
    }
}

fn show(device: &Value, output: Output) {
    if !output.print(device) {
        println!("{}", line(device));
    }
}

fn line(device: &Value) -> String {
    let enabled = match device["accountEnabled"].as_bool() {
        Some(true) => "enabled",
        Some(false) => "disabled",
        None => "?",
    };
    let (id, name) = (text(&device["id"]), text(&device["displayName"]));
    format!("{id}  {enabled:8}  {name}")
}
