//! One request to the judge, read from files or from a line, within limits.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::answer::{Answer, List};
use crate::cli::input::read_input;
use crate::cli::verify::Args;
use crate::graph::wire;
use crate::trust::configurations::{ConfigurationId, Configurations, Device, Devices};
use crate::trust::devices::{Registries, Registry};
use crate::trust::judge::devices::{self, UnverifiedChain};
use crate::trust::path::signature::SignatureMemo;
use crate::trust::revocation::{CrlMode, Revocations, Unusable};
use crate::trust::snapshot::{Snapshot, TrustPolicy};
use crate::x509::certificate::Certificate;
use crate::x509::crl::RevocationList;
use crate::x509::pem::{self, CertificateFileError};
use crate::x509::time::Timestamp;

/// Limit in bytes on a directory file.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Limit in bytes on a chain file: more than on a chain, because of base64 and bag attributes.
const MAX_CHAIN: u64 = 1 << 20;
/// Limit in bytes on a list: more than on its DER, because of base64.
const MAX_LIST: u64 = 4 << 30;
/// Limit on the lists of one request.
const MAX_LISTS: usize = 1000;
/// Limit in bytes on a file of devices.
const MAX_DEVICES_FILE: u64 = 512 << 20;
/// Limit on the devices of one request.
const MAX_DEVICES: usize = 10_000_000;
/// Name of the registry made of these devices.
const DEVICES_SOURCE: &str = "devices";

/// A chain, and everything that it is judged under.
pub(super) struct Request {
    directory: Vec<u8>,
    devices: Option<Vec<u8>>,
    chain_pem: Vec<u8>,
    lists: Vec<Vec<u8>>,
    at: Option<String>,
    crl_policy: Option<String>,
    configuration: Option<String>,
}

/// Line of `--batch`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    directory: Value,
    devices: Option<Value>,
    chain_pem: String,
    #[serde(default)]
    crls_base64: Vec<String>,
    at: Option<String>,
    crl_policy: Option<String>,
    configuration_id: Option<String>,
}

impl Request {
    /// Reads the files that the arguments name.
    pub(super) fn from_files(args: &Args) -> Result<Self, String> {
        let (Some(directory), Some(chain)) = (&args.directory, &args.chain) else {
            return Err("--directory and --chain are required".into());
        };
        if args.crl.len() > MAX_LISTS {
            return Err(format!("{} lists; at most {MAX_LISTS} are allowed", args.crl.len()));
        }
        let lists = args.crl.iter().map(|path| read(path, MAX_LIST)).collect::<Result<_, _>>()?;
        let chain_pem = read(chain, MAX_CHAIN)?;
        if chain_pem.is_empty() {
            return Err(format!("{}: {}", chain.display(), CertificateFileError::Empty));
        }
        Ok(Self {
            directory: read(directory, MAX_DIRECTORY)?,
            devices: args.devices.as_ref().map(|file| read(file, MAX_DEVICES_FILE)).transpose()?,
            chain_pem,
            lists,
            at: args.at.clone(),
            crl_policy: args.crl_policy.clone(),
            configuration: args.configuration.clone(),
        })
    }

    /// Converts a line of `--batch`.
    pub(super) fn from_json(value: Value) -> Result<Self, String> {
        let line: Line = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if line.chain_pem.len() as u64 > MAX_CHAIN {
            let bytes = line.chain_pem.len();
            return Err(format!("chainPem of {bytes} bytes; at most {MAX_CHAIN} are allowed"));
        }
        if line.crls_base64.len() > MAX_LISTS {
            let lists = line.crls_base64.len();
            return Err(format!("{lists} lists; at most {MAX_LISTS} are allowed"));
        }
        let decode = |(index, text): (usize, &String)| {
            STANDARD.decode(text.trim()).map_err(|error| format!("crlsBase64[{index}]: {error}"))
        };
        let lists = line.crls_base64.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        Ok(Self {
            directory: line.directory.to_string().into_bytes(),
            devices: line.devices.map(|list| list.to_string().into_bytes()),
            chain_pem: line.chain_pem.into_bytes(),
            lists,
            at: line.at,
            crl_policy: line.crl_policy,
            configuration: line.configuration_id,
        })
    }

    /// Judges the chain.  With `explain`, the answer includes every path that was tried.
    /// `signatures` saves work when a later request has the same certificates.
    ///
    /// # Errors
    /// A part of the request is not usable; the text names it.
    pub(super) fn judge(
        &self,
        signatures: Option<Arc<SignatureMemo>>,
        explain: bool,
    ) -> Result<Answer, String> {
        let now = self.time()?;
        let mut anchors = wire::read_configurations(&self.directory)
            .map_err(|error| format!("the directory: {error}"))?;
        if let Some(wanted) = &self.configuration {
            let wanted = ConfigurationId::from(wanted.as_str());
            anchors.configurations.retain(|configuration| configuration.id == wanted);
            if anchors.configurations.is_empty() {
                return Err(format!("the directory has no usable configuration {wanted}"));
            }
        }
        let registries = self.registries(&mut anchors)?;
        let policy = Arc::new(TrustPolicy { crl: self.crl_mode()?, ..TrustPolicy::default() });
        let chain = match UnverifiedChain::from_der(&self.chain()?) {
            Ok(chain) => chain,
            Err(refusal) => return Ok(Answer::refused(refusal, anchors.skipped)),
        };
        let (revocations, lists) = self.revocations(&anchors, &chain, now);
        let skipped = anchors.skipped.clone();
        let (anchors, revocations) = (Arc::new(anchors), Arc::new(revocations));
        let signatures = signatures.unwrap_or_default();
        let snapshot = Snapshot::new(0, anchors, revocations, policy, signatures)
            .with_devices(Arc::new(registries));
        let (decision, attempts) = if explain {
            devices::explain(&chain, &snapshot, now)
        } else {
            (devices::judge(&chain, &snapshot, now), Vec::new())
        };
        Ok(Answer::new(decision, attempts, lists, skipped))
    }

    /// The registry of the given devices.  If there is one, all configurations require
    /// registration.
    fn registries(&self, anchors: &mut Configurations<Device>) -> Result<Registries, String> {
        let mut registries = Registries::default();
        if let Some(json) = &self.devices {
            let registry = wire::devices::read_registry(json, MAX_DEVICES)
                .map_err(|error| format!("the devices: {error}"))?;
            let source: Arc<str> = DEVICES_SOURCE.into();
            for configuration in &mut anchors.configurations {
                Arc::make_mut(configuration).kind.devices =
                    Devices::Registered(Arc::clone(&source));
            }
            registries.set(source, Registry::InForce(registry));
        }
        Ok(registries)
    }

    fn time(&self) -> Result<Timestamp, String> {
        match &self.at {
            None => Ok(SystemTime::now().into()),
            Some(text) => Timestamp::parse_rfc3339(text)
                .ok_or_else(|| format!("`{text}` is not a time such as 2026-11-21T08:00:00Z")),
        }
    }

    fn crl_mode(&self) -> Result<Option<CrlMode>, String> {
        match self.crl_policy.as_deref() {
            None => Ok(None),
            Some("require") => Ok(Some(CrlMode::Require)),
            Some("if-available") => Ok(Some(CrlMode::IfAvailable)),
            Some("off") => Ok(Some(CrlMode::Off)),
            Some(other) => {
                Err(format!("CRL policy `{other}`; it must be require, if-available or off"))
            }
        }
    }

    /// The presented certificates.  An empty text of a line stands for a device without one.
    fn chain(&self) -> Result<Vec<Vec<u8>>, String> {
        if self.chain_pem.is_empty() {
            return Ok(Vec::new());
        }
        pem::certificates(&self.chain_pem).map_err(|error| format!("the chain: {error}"))
    }

    /// The usable lists, and the result of reading each.  Their signers can be authorities and
    /// certificates of the chain.
    fn revocations(
        &self,
        anchors: &Configurations<Device>,
        chain: &UnverifiedChain,
        now: Timestamp,
    ) -> (Revocations, Vec<List>) {
        let signers: Vec<Arc<Certificate>> = anchors
            .authorities()
            .map(|authority| &authority.certificate)
            .chain(chain.certificates())
            .cloned()
            .collect();
        let (mut usable, mut unusable, mut lists) = (Vec::new(), Vec::new(), Vec::new());
        for bytes in &self.lists {
            match RevocationList::read(bytes, &signers, now) {
                Ok(list) => {
                    let list = Arc::new(list);
                    lists.push(List::Used(Arc::clone(&list)));
                    usable.push(list);
                }
                Err(error) => {
                    lists.push(List::Unusable(error.to_string()));
                    let why = error.to_string();
                    unusable.push(Unusable { issuers: error.issuer.into_iter().collect(), why });
                }
            }
        }
        (Revocations::new(usable).with_unusable(unusable), lists)
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    read_input(path, limit).map_err(|error| error.to_string())
}
