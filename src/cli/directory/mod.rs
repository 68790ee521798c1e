//! `anchorgate directory …`: an administrator's hand on the trust configurations and the devices of a
//! directory, ours or Microsoft's.

mod devices;
mod import;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use reqwest::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use url::Url;

use crate::cli::directory::devices::{DeviceCommand, TemplateCommand};
use crate::directory::validate::{MAX_CERTIFICATE_BYTES, check_authority, is_self_signed};
use crate::domain::cert::{Certificate, Fingerprint};
use crate::domain::subject::SubjectField;
use crate::domain::time::Timestamp;
use crate::graph::auth::{AssertionStyle, Cloud, Credential};
use crate::graph::client::{Client, FetchError, Limits};
use crate::graph::wire;
use crate::runtime::log::Secret;

/// Times that a read-modify-write is tried when somebody else writes in between.
const TRIES: usize = 5;

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

/// Where the directory is and how to get in.
#[derive(Debug, Args)]
struct Access {
    /// The directory's root
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ANCHORGATE_DIRECTORY",
        default_value = "https://graph.microsoft.com"
    )]
    url: Url,
    /// PEM of the only authorities that the directory's server may have
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_CA")]
    ca_bundle: Option<PathBuf>,
    /// A file with a bearer token
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The Entra tenant that tokens come from
    #[arg(long, global = true, value_name = "ID", env = "AZURE_TENANT_ID")]
    tenant: Option<String>,
    /// The application's client ID
    #[arg(long, global = true, value_name = "ID", env = "AZURE_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with the application's client secret
    #[arg(long, global = true, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The application's certificate, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The certificate's RSA key, PEM
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
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

/// An authority as the command line names it.
#[derive(Debug, Clone)]
struct AuthorityFile {
    path: PathBuf,
    crl: Option<Url>,
    delta: Option<Url>,
}

impl FromStr for AuthorityFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = PathBuf::from(parts.next().unwrap_or_default());
        let mut file = Self { path, crl: None, delta: None };
        for part in parts {
            let (name, value) = part.split_once('=').ok_or("expected crl=URL or delta=URL")?;
            let url = Url::parse(value).map_err(|error| format!("`{value}`: {error}"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("`{value}` is neither http nor https"));
            }
            match name {
                "crl" => file.crl = Some(url),
                "delta" => file.delta = Some(url),
                _ => return Err(format!("`{name}` is neither crl nor delta")),
            }
        }
        match file {
            Self { crl: None, delta: Some(_), .. } => Err("a delta needs its base: crl=URL".into()),
            file => Ok(file),
        }
    }
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
/// A file that is no authority, or a directory that does not do it.
pub async fn directory(args: &DirectoryArgs) -> anyhow::Result<ExitCode> {
    // Files first: nothing is sent when one of them is wrong.
    let now = Timestamp::from(SystemTime::now());
    let changed = match &args.command {
        DirectoryCommand::Create { authorities, .. } => {
            authorities.iter().map(|file| element(file, now)).collect::<anyhow::Result<Vec<_>>>()?
        }
        DirectoryCommand::AddCa { authority, .. } => vec![element(authority, now)?],
        _ => Vec::new(),
    };
    let client = args.access.client()?;
    let answer = match &args.command {
        DirectoryCommand::Device(command) => {
            return devices::device(client, command, args.access.json).await;
        }
        DirectoryCommand::DeviceTemplate(command) => {
            return devices::template(&client, command, args.access.json).await;
        }
        DirectoryCommand::List => Value::Array(client.objects().await?),
        DirectoryCommand::Get { id } => client.call(Method::GET, id, None, None).await?,
        DirectoryCommand::Create { name, field, .. } => {
            let body = json!({
                "@odata.type": "#microsoft.graph.mutualTlsOauthConfiguration",
                "displayName": name,
                "tlsClientAuthParameter": field.as_str(),
                "certificateAuthorities": changed,
            });
            client.call(Method::POST, "", Some(&body), None).await?
        }
        DirectoryCommand::Update { id, name } => {
            let body = json!({ "displayName": name });
            client.call(Method::PATCH, id, Some(&body), None).await?
        }
        DirectoryCommand::Delete { id } => client.call(Method::DELETE, id, None, None).await?,
        DirectoryCommand::AddCa { id, .. } => {
            change_authorities(&client, id, |mut list| {
                let new = changed.first().context("no authority was read")?;
                list.retain(|old| fingerprint(old) != fingerprint(new));
                list.push(new.clone());
                Ok(list)
            })
            .await?
        }
        DirectoryCommand::RemoveCa { id, authority } => {
            let wanted = named(authority)?;
            change_authorities(&client, id, |mut list| {
                let before = list.len();
                list.retain(|old| fingerprint(old).as_ref() != Some(&wanted));
                ensure!(list.len() < before, "the configuration has no authority {wanted}");
                Ok(list)
            })
            .await?
        }
    };
    match (&answer, args.access.json) {
        (Value::Null, _) => println!("done"),
        (answer, true) => println!("{answer:#}"),
        (Value::Array(list), false) => list.iter().for_each(show),
        (answer, false) => show(answer),
    }
    Ok(ExitCode::SUCCESS)
}

impl Access {
    fn client(&self) -> anyhow::Result<Client> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let endpoint = || {
            let (Some(tenant), Some(client_id)) = (&self.tenant, &self.client_id) else {
                bail!("a client secret or certificate needs --tenant and --client-id");
            };
            Cloud::Global.endpoint(tenant, client_id).context("no token endpoint for this tenant")
        };
        let credential = match (
            &self.token_file,
            &self.client_secret_file,
            &self.client_certificate,
        ) {
            (Some(file), None, None) => Credential::Static(Secret::new(read(file)?.trim())),
            (None, Some(file), None) => Credential::ClientSecret {
                endpoint: endpoint()?,
                secret: Secret::new(read(file)?.trim()),
            },
            (None, None, Some(certificate)) => Credential::ClientCertificate {
                endpoint: endpoint()?,
                certificate: certificate.clone(),
                key: self.client_key.clone().context("--client-key is missing")?,
                style: AssertionStyle::default(),
                send_chain: false,
            },
            _ => bail!(
                "exactly one of --token-file, --client-secret-file and --client-certificate is needed"
            ),
        };
        let bundle = self.ca_bundle.as_deref().map(read).transpose()?.map(String::into_bytes);
        Ok(Client::new(&self.url, credential, bundle, Limits::default())?)
    }
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
            Err(FetchError::Status { status: 412, .. }) => {}
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

fn fingerprint(element: &Value) -> Option<Fingerprint> {
    Some(Fingerprint::of(&wire::binary(element["certificate"].as_str()?)?))
}

/// An element of `certificateAuthorities` from a file, checked.
fn element(file: &AuthorityFile, now: Timestamp) -> anyhow::Result<Value> {
    let certificate = read_certificate(&file.path)?;
    let is_root = is_self_signed(&certificate);
    if let Err(why) = check_authority(&certificate, is_root, now) {
        bail!("{}: `{}`: {why}", file.path.display(), certificate.subject);
    }
    Ok(json!({
        "@odata.type": "microsoft.graph.certificateAuthority",
        "certificate": STANDARD.encode(certificate.der()),
        "certificateRevocationListUrl": file.crl.as_ref().map(Url::as_str),
        "deltaCertificateRevocationListUrl": file.delta.as_ref().map(Url::as_str),
        "isRootAuthority": is_root,
    }))
}

/// The one certificate of a PEM or DER file.
fn read_certificate(path: &Path) -> anyhow::Result<Certificate> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| name.to_string())?;
    let der = if bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        let found = CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("{name}: PEM that cannot be read"))?;
        match &found[..] {
            [one] => one.to_vec(),
            several => bail!("{name}: {} certificates; one is expected", several.len()),
        }
    } else {
        bytes
    };
    let length = der.len();
    ensure!(
        length <= MAX_CERTIFICATE_BYTES,
        "{name}: {length} bytes of DER; a directory takes at most {MAX_CERTIFICATE_BYTES}"
    );
    Certificate::from_der(&der).with_context(|| name.to_string())
}

/// The fingerprint that an argument gives, or that of the file it names.
fn named(authority: &str) -> anyhow::Result<Fingerprint> {
    let digits: String = authority.chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[i * 2..i * 2 + 2], 16)?;
        }
        return Ok(Fingerprint(bytes));
    }
    Ok(read_certificate(Path::new(authority))?.fingerprint)
}

fn show(object: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    println!(
        "{}  {}  {}",
        text(&object["id"]),
        text(&object["tlsClientAuthParameter"]),
        text(&object["displayName"])
    );
    for authority in object["certificateAuthorities"].as_array().into_iter().flatten() {
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
    fn an_authority_is_named_with_its_addresses() {
        let file: AuthorityFile =
            "a.pem,crl=http://x/a.crl,delta=https://x/d.crl".parse().expect("readable");
        assert_eq!(file.path, Path::new("a.pem"));
        assert_eq!(file.crl.map(|url| url.to_string()).as_deref(), Some("http://x/a.crl"));
        assert!(file.delta.is_some());
        for bad in ["a.pem,delta=http://x/", "a.pem,crl=ldap://x/", "a.pem,x=http://x/", "a.pem,y"]
        {
            assert!(bad.parse::<AuthorityFile>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_back_has_no_computed_members() {
        let element = json!({"certificate": "AA", "isRootAuthority": true, "issuer": "CN=x",
            "issuerSki": "00", "certificateRevocationListUrl": null});
        let sent = sendable(&element);
        assert_eq!(sent.as_object().map(Map::len), Some(3));
        assert!(sent.get("issuer").is_none());
    }
}
