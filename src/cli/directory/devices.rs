//! `anchorgate directory device …` and `device-template …`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::directory::{Usage, deleted, import};
use crate::graph::client::{Client, FetchError};
use crate::runtime::random::is_guid;
use crate::trust::subject::{self, SubjectField, SubjectId};

/// How an anchorgate tells the configuration of a device's template.
const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";
const TEMPLATES: [&str; 3] = ["directory", "templates", "deviceTemplates"];

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Every device, or those of one template
    List {
        /// The template's id
        #[arg(long, value_name = "ID")]
        template: Option<String>,
    },
    /// One device
    Get {
        /// Its externalDeviceId
        device: String,
    },
    /// Register a device
    Create {
        /// Its externalDeviceId
        device: String,
        #[command(flatten)]
        new: NewDevices,
    },
    /// Let a device have tokens
    Enable {
        /// Its externalDeviceId
        device: String,
    },
    /// Refuse a device tokens, as one that was stolen
    Disable {
        /// Its externalDeviceId
        device: String,
    },
    /// Delete a device: it is unknown from then on
    Delete {
        /// Its externalDeviceId
        device: String,
    },
    /// Register the devices of a file
    ///
    /// Those that are registered already are told and left as they are, so that an import that was
    /// broken off can be made again. What cannot be registered is told by its line, as is a device that
    /// is registered for another configuration; the exit status is 1 then. Where the directory does not
    /// answer any more, or refuses the caller, the import stops.
    Import {
        /// UTF-8 text with one externalDeviceId a line and nothing else on it; `-` is standard input
        file: PathBuf,
        #[command(flatten)]
        new: NewDevices,
        /// Requests at once
        #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
        parallel: u16,
        /// Begin with this line, as an import that has stopped tells it
        #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
    },
}

/// What new devices have in common.
#[derive(Debug, Args)]
pub(super) struct NewDevices {
    /// The id of the template that they are made from
    #[arg(long, value_name = "ID")]
    template: String,
    /// Refuse them tokens until they are enabled
    #[arg(long)]
    disabled: bool,
}

/// What to do with device templates.
#[derive(Debug, Subcommand)]
pub(super) enum TemplateCommand {
    /// Every template
    List,
    /// One template
    Get {
        /// Its id
        id: String,
    },
    /// Make a template
    Create {
        /// The id of the mutualTlsOauthConfiguration that its devices are of
        #[arg(long, value_name = "ID")]
        configuration: Option<String>,
        /// The tenant of that configuration, where it is another one
        #[arg(long, value_name = "ID")]
        configuration_tenant: Option<String>,
        /// Who provisions and manages the devices
        #[arg(long, value_name = "NAME")]
        authority: String,
        /// Who makes them
        #[arg(long, value_name = "NAME")]
        manufacturer: String,
        /// What they are
        #[arg(long, value_name = "NAME")]
        model: String,
        /// What runs on them
        #[arg(long, value_name = "NAME")]
        operating_system: Option<String>,
    },
    /// Delete a template that has no devices
    Delete {
        /// Its id
        id: String,
    },
}

/// `directory device …`
pub(super) async fn device(
    client: Client,
    command: &DeviceCommand,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        DeviceCommand::List { template } => list(&client, template.as_deref(), json).await?,
        DeviceCommand::Get { device } => show(&find(&client, device).await?, json),
        DeviceCommand::Create { device, new } => {
            let maker = Maker::new(client, new).await?;
            show(&maker.create(device).await?, json);
        }
        DeviceCommand::Enable { device } => enable(&client, device, true, json).await?,
        DeviceCommand::Disable { device } => enable(&client, device, false, json).await?,
        DeviceCommand::Delete { device } => {
            let found = find(&client, device).await?;
            client.operate(Method::DELETE, &at(&client, &found)?, None, None).await?;
            deleted(found["id"].as_str().unwrap_or(device), json);
        }
        DeviceCommand::Import { file, new, parallel, from } => {
            let maker = Arc::new(Maker::new(client, new).await?);
            return import::import(maker, file, usize::from(*parallel), *from, json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `directory device-template …`
pub(super) async fn template(
    client: &Client,
    command: &TemplateCommand,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let answer = match command {
        TemplateCommand::List => {
            let (mut all, mut next) = (Vec::new(), Some(client.at(&TEMPLATES, "")));
            while let Some(url) = next {
                let (page, link) = client.list_page(&url).await?;
                all.extend(page);
                next = link;
            }
            Value::Array(all)
        }
        TemplateCommand::Get { id } => get_template(client, id).await?,
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
            client.operate(Method::POST, &client.at(&TEMPLATES, ""), Some(&body), None).await?
        }
        TemplateCommand::Delete { id } => {
            let url = template_url(client, id, None)?;
            client.operate(Method::DELETE, &url, None, None).await?;
            deleted(id, json);
            return Ok(ExitCode::SUCCESS);
        }
    };
    match answer {
        Value::Array(list) if !json => list.iter().for_each(show_template),
        answer if json => println!("{answer:#}"),
        answer => show_template(&answer),
    }
    Ok(ExitCode::SUCCESS)
}

async fn get_template(client: &Client, id: &str) -> anyhow::Result<Value> {
    Ok(client.operate(Method::GET, &template_url(client, id, None)?, None, None).await?)
}

fn template_url(client: &Client, id: &str, below: Option<&str>) -> anyhow::Result<url::Url> {
    if !is_guid(id) {
        let why = format!("`{id}` is not the id of a device template, which is a GUID");
        return Err(Usage(why).into());
    }
    let segments: Vec<&str> = TEMPLATES.into_iter().chain([id]).chain(below).collect();
    Ok(client.at(&segments, ""))
}

/// Prints page by page: a fleet does not fit into memory.
async fn list(client: &Client, template: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut next = Some(match template {
        Some(id) => template_url(client, id, Some("deviceInstances"))?,
        None => client.at(&["devices"], "$top=999"),
    });
    let mut first = true;
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        for device in &page {
            match (json, first) {
                (true, true) => print!("[\n{device}"),
                (true, false) => print!(",\n{device}"),
                (false, _) => println!("{}", line(device)),
            }
            first = false;
        }
        ensure!(link.as_ref() != Some(&url), "the list runs in a circle");
        next = link;
    }
    match (json, first) {
        (true, true) => println!("[]"),
        (true, false) => println!("\n]"),
        (false, _) => {}
    }
    Ok(())
}

/// The device of that externalDeviceId, or else of that object id.
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

async fn find_by_name(client: &Client, name: &str) -> anyhow::Result<Option<Value>> {
    let quoted = format!("displayName eq '{}'", name.replace('\'', "''"));
    let query: String = url::form_urlencoded::byte_serialize(quoted.as_bytes()).collect();
    let mut next = Some(client.at(&["devices"], &format!("$filter={query}")));
    let mut found = Vec::new();
    while let Some(url) = next {
        let (page, link) = client.list_page(&url).await?;
        // Other devices may be displayed by that name, in a tenant that has others.
        found.extend(page.into_iter().filter(|device| is_named(device, name)));
        ensure!(link.as_ref() != Some(&url), "the list runs in a circle");
        next = link;
    }
    ensure!(found.len() < 2, "{} devices have the externalDeviceId `{name}`", found.len());
    Ok(found.pop())
}

fn is_named(device: &Value, name: &str) -> bool {
    let ids = device["physicalIds"].as_array().map_or(&[][..], Vec::as_slice);
    ids.iter().any(|id| id.as_str().and_then(|id| id.strip_prefix("[EXTID]:")) == Some(name))
}

async fn enable(client: &Client, device: &str, enabled: bool, json: bool) -> anyhow::Result<()> {
    let found = find(client, device).await?;
    let url = at(client, &found)?;
    let body = json!({ "accountEnabled": enabled });
    client.operate(Method::PATCH, &url, Some(&body), None).await?;
    let now = client.operate(Method::GET, &url, None, None).await?;
    show(&now, json);
    ensure!(now["accountEnabled"] == enabled, "somebody else has changed it since");
    Ok(())
}

fn at(client: &Client, device: &Value) -> anyhow::Result<url::Url> {
    match device["id"].as_str() {
        Some(id) if is_guid(id) => Ok(client.at(&["devices", id], "")),
        _ => bail!("the directory's answer has no object id"),
    }
}

/// Makes devices of one template.
pub(super) struct Maker {
    client: Client,
    url: url::Url,
    enabled: bool,
    /// The configuration that the template names.
    configuration: Option<String>,
    /// The certificate field that the devices are named by, where the directory tells.
    field: Option<SubjectField>,
}

/// Whether a device is registered already.
pub(super) enum Found {
    /// It is not.
    Nowhere,
    /// For the configuration that it is to be registered for, as far as the directory tells.
    Ours,
    /// For another one, where its certificate is not looked for.
    Elsewhere(String),
}

impl Maker {
    async fn new(client: Client, new: &NewDevices) -> anyhow::Result<Self> {
        let url = template_url(&client, &new.template, Some("createDeviceFromTemplate"))?;
        let template = get_template(&client, &new.template).await?;
        let configuration = template["mutualTlsOauthConfigurationId"].as_str().map(str::to_owned);
        let field = match configuration.as_deref() {
            None => None,
            Some(id) => match client.call(Method::GET, id, None, None).await {
                Ok(found) => found["tlsClientAuthParameter"].as_str().and_then(SubjectField::parse),
                // Of another tenant, or not for these eyes.
                Err(FetchError::Status { status: 403 | 404, .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Self { client, url, enabled: !new.disabled, configuration, field })
    }

    /// Refuses a name that no certificate of the configuration could have: the device would never be
    /// known.
    pub(super) fn check(&self, name: &str) -> anyhow::Result<()> {
        let Some(field) = self.field else {
            ensure!(!name.is_empty(), "it is empty");
            return subject::check_printable(name).map_err(|why| anyhow::anyhow!("it {why}"));
        };
        let id = SubjectId::parse(field, name)?;
        ensure!(
            id.as_str() == name,
            "the subject ID of its certificate is written `{id}`: register that"
        );
        Ok(())
    }

    pub(super) async fn create(&self, name: &str) -> anyhow::Result<Value> {
        self.check(name)?;
        Ok(self.send(name).await?)
    }

    pub(super) async fn send(&self, name: &str) -> Result<Value, FetchError> {
        let body = json!({"externalDeviceId": name, "accountEnabled": self.enabled});
        self.client.operate(Method::POST, &self.url, Some(&body), None).await
    }

    /// What there is of that name.
    pub(super) async fn found(&self, name: &str) -> anyhow::Result<Found> {
        let Some(found) = find_by_name(&self.client, name).await? else {
            return Ok(Found::Nowhere);
        };
        // Graph does not tell.
        let Some(told) = found.get(CONFIGURATION) else { return Ok(Found::Ours) };
        if told.as_str() == self.configuration.as_deref() {
            return Ok(Found::Ours);
        }
        let of =
            told.as_str().map_or("no configuration".into(), |id| format!("configuration {id}"));
        Ok(Found::Elsewhere(format!("it is registered already, but for {of}")))
    }
}

fn show(device: &Value, json: bool) {
    if json { println!("{device:#}") } else { println!("{}", line(device)) }
}

fn line(device: &Value) -> String {
    let enabled = match device["accountEnabled"].as_bool() {
        Some(true) => "enabled",
        Some(false) => "disabled",
        None => "?",
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    format!("{}  {enabled:8}  {}", text(&device["id"]), text(&device["displayName"]))
}

fn show_template(template: &Value) {
    let text = |name: &str| template[name].as_str().unwrap_or("-").to_owned();
    println!(
        "{}  configuration {}  {}, {}, {}",
        text("id"),
        text("mutualTlsOauthConfigurationId"),
        text("deviceAuthority"),
        text("manufacturer"),
        text("model")
    );
}
