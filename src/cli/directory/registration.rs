//! Registration of devices in a directory, and search for them by externalDeviceId.

use anyhow::ensure;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::cli::directory::templates;
use crate::graph::client::{Client, FetchError};
use crate::trust::subject::{self, SubjectField, SubjectId};

/// Member in which anchorgate returns the configuration of a device's template.
const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// Settings that new devices have in common.
#[derive(Debug, Args)]
pub(super) struct NewDevices {
    /// Id of the template that they are created from
    #[arg(long, value_name = "ID")]
    template: String,
    /// Register them as disabled: they are refused until they are enabled
    #[arg(long)]
    disabled: bool,
}

/// Registers devices of one template.
pub(super) struct Registration {
    client: Client,
    /// URL of the action that creates a device.
    url: Url,
    enabled: bool,
    /// The configuration that the template names.
    configuration: Option<String>,
    /// The certificate field of the devices' subject IDs, if it can be read from the directory.
    field: Option<SubjectField>,
}

/// Result of a search for a device that could not be created.
pub(super) enum Existing {
    /// No such device is registered.
    No,
    /// It is registered for the intended configuration, as far as the directory returns it.
    Same,
    /// It is registered for another configuration, under which its certificate is not accepted.
    Other(String),
}

impl Registration {
    pub(super) async fn new(client: Client, new: &NewDevices) -> anyhow::Result<Self> {
        let url = templates::url(&client, &new.template, Some("createDeviceFromTemplate"))?;
        let template = templates::get(&client, &new.template).await?;
        let configuration = template["mutualTlsOauthConfigurationId"].as_str().map(str::to_owned);
        let field = match configuration.as_deref() {
            None => None,
            Some(id) => match client.call(Method::GET, id, None, None).await {
                Ok(found) => found["tlsClientAuthParameter"].as_str().and_then(SubjectField::parse),
                // It belongs to another tenant, or the caller may not read it.
                Err(FetchError::Status { status: 403 | 404, .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Self { client, url, enabled: !new.disabled, configuration, field })
    }

    /// Rejects a name that cannot be a subject ID under the configuration: the device could never
    /// be recognised.
    pub(super) fn check(&self, name: &str) -> anyhow::Result<()> {
        let Some(field) = self.field else {
            ensure!(!name.is_empty(), "the externalDeviceId is empty");
            return subject::check_printable(name)
                .map_err(|why| anyhow::anyhow!("the externalDeviceId {why}"));
        };
        let id = SubjectId::parse(field, name)?;
        ensure!(
            id.as_str() == name,
            "the canonical form of this subject ID is `{id}`: register that"
        );
        Ok(())
    }

    /// Checks the name and registers the device.
    pub(super) async fn create(&self, name: &str) -> anyhow::Result<Value> {
        self.check(name)?;
        Ok(self.send(name).await?)
    }

    /// Sends one request to register the device.
    pub(super) async fn send(&self, name: &str) -> Result<Value, FetchError> {
        let body = json!({"externalDeviceId": name, "accountEnabled": self.enabled});
        self.client.operate(Method::POST, &self.url, Some(&body), None).await
    }

    /// Searches for a registered device of this name.
    pub(super) async fn find_existing(&self, name: &str) -> anyhow::Result<Existing> {
        let Some(found) = find_by_name(&self.client, name).await? else {
            return Ok(Existing::No);
        };
        // Graph does not return this member.
        let Some(configuration) = found.get(CONFIGURATION) else { return Ok(Existing::Same) };
        if configuration.as_str() == self.configuration.as_deref() {
            return Ok(Existing::Same);
        }
        let registered_for = configuration
            .as_str()
            .map_or("no configuration".into(), |id| format!("configuration {id}"));
        Ok(Existing::Other(format!("already registered for {registered_for}")))
    }
}

/// The device with this externalDeviceId.
pub(super) async fn find_by_name(client: &Client, name: &str) -> anyhow::Result<Option<Value>> {
    let quoted = format!("displayName eq '{}'", name.replace('\'', "''"));
    let query: String = url::form_urlencoded::byte_serialize(quoted.as_bytes()).collect();
    let mut next = Some(client.at(&["devices"], &format!("$filter={query}")));
    let mut found = Vec::new();
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        // A tenant may have other devices with this display name.
        found.extend(page.into_iter().filter(|device| is_named(device, name)));
        ensure!(link.as_ref() != Some(&url), "the pages of the list form a loop");
        next = link;
    }
    ensure!(found.len() < 2, "{} devices have the externalDeviceId `{name}`", found.len());
    Ok(found.pop())
}

fn is_named(device: &Value, name: &str) -> bool {
    let ids = device["physicalIds"].as_array().map_or(&[][..], Vec::as_slice);
    ids.iter().any(|id| id.as_str().and_then(|id| id.strip_prefix("[EXTID]:")) == Some(name))
}
