//! `anchorgate directory device-template …`.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::cli::directory::access::UsageError;
use crate::cli::directory::output;
use crate::cli::output::Output;
use crate::cli::terminal::text;
use crate::graph::client::Client;
use crate::runtime::random::is_guid;

const PATH: [&str; 3] = ["directory", "templates", "deviceTemplates"];

/// Actions on device templates.
#[derive(Debug, Subcommand)]
pub(super) enum TemplateCommand {
    /// List all templates
    List,
    /// Print one template
    Get {
        /// Id of the template
        id: String,
    },
    /// Create a template
    Create {
        /// Id of the mutualTlsOauthConfiguration that its devices belong to
        #[arg(long, value_name = "ID")]
        configuration: Option<String>,
        /// Tenant of that configuration, if it is another one
        #[arg(long, value_name = "ID")]
        configuration_tenant: Option<String>,
        /// Organisation that provisions and manages the devices
        #[arg(long, value_name = "NAME")]
        authority: String,
        /// Manufacturer of the devices
        #[arg(long, value_name = "NAME")]
        manufacturer: String,
        /// Model of the devices
        #[arg(long, value_name = "NAME")]
        model: String,
        /// Operating system of the devices
        #[arg(long, value_name = "NAME")]
        operating_system: Option<String>,
    },
    /// Delete a template that has no devices
    Delete {
        /// Id of the template
        id: String,
    },
}

/// Runs `directory device-template …`.
pub(super) async fn template(
    client: &Client,
    command: &TemplateCommand,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let result = match command {
        TemplateCommand::List => {
            let (mut all, mut next) = (Vec::new(), Some(client.at(&PATH, "")));
            while let Some(url) = next {
                let (page, link) = client.list_page(&url).await?;
                ensure!(link.as_ref() != Some(&url), "the pages of the list form a loop");
                all.extend(page);
                next = link;
            }
            Value::Array(all)
        }
        TemplateCommand::Get { id } => get(client, id).await?,
        TemplateCommand::Create {
            configuration,
            configuration_tenant,
            authority,
            manufacturer,
            model,
            operating_system,
        } => {
            let body = json!({
                "@odata.type": "#microsoft.graph.deviceTemplate",
                "mutualTlsOauthConfigurationId": configuration,
                "mutualTlsOauthConfigurationTenantId": configuration_tenant,
                "deviceAuthority": authority,
                "manufacturer": manufacturer,
                "model": model,
                "operatingSystem": operating_system,
            });
            client.operate(Method::POST, &client.at(&PATH, ""), Some(&body), None).await?
        }
        TemplateCommand::Delete { id } => {
            client.operate(Method::DELETE, &url(client, id, None)?, None, None).await?;
            output::deleted(id, output);
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::objects(&result, output, "device templates", show);
    Ok(ExitCode::SUCCESS)
}

/// Reads a template.
pub(super) async fn get(client: &Client, id: &str) -> anyhow::Result<Value> {
    Ok(client.operate(Method::GET, &url(client, id, None)?, None, None).await?)
}

/// URL of a template, or of a resource `below` it.
pub(super) fn url(client: &Client, id: &str, below: Option<&str>) -> Result<Url, UsageError> {
    if !is_guid(id) {
        return Err(UsageError(format!(
            "`{id}` is not the id of a device template, which is a GUID; `anchorgate directory \
             device-template list` shows them"
        )));
    }
    let segments: Vec<&str> = PATH.into_iter().chain([id]).chain(below).collect();
    Ok(client.at(&segments, ""))
}

fn show(template: &Value) {
    let text = |name: &str| text(&template[name]);
    println!(
        "{}  configuration {}  {}, {}, {}",
        text("id"),
        text("mutualTlsOauthConfigurationId"),
        text("deviceAuthority"),
        text("manufacturer"),
        text("model")
    );
}
