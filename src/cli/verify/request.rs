//! One request to the judge, read from files or from a line, within limits.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::answer::{Answer, List};
use crate::cli::input::{
    expect_configurations, expect_revocation_list, list_response, read_in_pieces, read_input,
};
use crate::cli::verify::Args;
use crate::graph::wire;
use crate::trust::configurations::{ConfigurationId, Configurations, Device, Devices};
use crate::trust::devices::{Registries, Registry};
use crate::trust::judge::devices::{self, UnverifiedChain};
use crate::trust::path::signature::SignatureMemo;
use crate::trust::revocation::{CrlMode, Revocations, Unusable};
use crate::trust::snapshot::{Snapshot, TrustPolicy};
use crate::x509::certificate::Certificate;
use crate::x509::crl::{CrlError, ListReader};
use crate::x509::pem::{self, CertificateFileError};
use crate::x509::time::Timestamp;

/// Limit in bytes on a directory file.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Limit in bytes on a chain file: more than on a chain, because of base64 and bag attributes.
const MAX_CHAIN: u64 = 1 << 20;
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
    directory: Part,
    devices: Option<Part>,
    chain_pem: Part,
    lists: Vec<ReadList>,
    at: Option<String>,
    crl_policy: Option<String>,
    configuration: Option<String>,
}

/// Bytes of a request, and their file or member, which messages name.
struct Part {
    name: String,
    bytes: Vec<u8>,
}

/// A list that was read up to its end, or the reason why it could not be.
struct ReadList {
    name: String,
    list: Result<Box<ListReader>, CrlError>,
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
        let lists =
            args.crl.iter().map(|path| ReadList::from_file(path)).collect::<Result<_, _>>()?;
        let chain_pem = Part::read(chain, MAX_CHAIN)?;
        if chain_pem.bytes.is_empty() {
            return Err(format!("{}: {}", chain_pem.name, CertificateFileError::Empty));
        }
        let list = |file, limit| Part::read(file, limit).map(Part::into_list_response);
        let directory = list(directory, MAX_DIRECTORY)?;
        // A file that is not JSON is refused later.
        if let Ok(response) = wire::parse(&directory.bytes) {
            expect_configurations(&directory.name, &response).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            directory,
            devices: args.devices.as_ref().map(|file| list(file, MAX_DEVICES_FILE)).transpose()?,
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
            let name = format!("crlsBase64[{index}]");
            match STANDARD.decode(text.trim()) {
                Ok(bytes) => Ok(ReadList::from_bytes(name, &bytes)),
                Err(error) => Err(format!("{name}: {error}")),
            }
        };
        let list = |name: &str, value: &Value| {
            Part { name: name.into(), bytes: value.to_string().into_bytes() }.into_list_response()
        };
        let lists = line.crls_base64.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        Ok(Self {
            directory: list("directory", &line.directory),
            devices: line.devices.map(|devices| list("devices", &devices)),
            chain_pem: Part { name: "chainPem".into(), bytes: line.chain_pem.into_bytes() },
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
        mut self,
        signatures: Option<Arc<SignatureMemo>>,
        explain: bool,
    ) -> Result<Answer, String> {
        let now = self.time()?;
        let mut anchors = wire::read_configurations(&self.directory.bytes)
            .map_err(|error| format!("{}: {error}", self.directory.name))?;
        if let Some(wanted) = &self.configuration {
            let wanted = ConfigurationId::from(wanted.as_str());
            anchors.configurations.retain(|configuration| configuration.id == wanted);
            if anchors.configurations.is_empty() {
                return Err(format!("{}: no usable configuration {wanted}", self.directory.name));
            }
        }
        let registries = self.registries(&mut anchors)?;
        let policy = Arc::new(TrustPolicy { crl: self.crl_mode()?, ..TrustPolicy::default() });
        let chain = match UnverifiedChain::from_der(&self.chain()?) {
            Ok(chain) => chain,
            Err(refusal) => return Ok(Answer::refused(refusal, anchors.skipped)),
        };
        let read = std::mem::take(&mut self.lists);
        let (revocations, lists) = revocations(read, &anchors, &chain, now);
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
        if let Some(Part { name, bytes }) = &self.devices {
            let registry = wire::devices::read_registry(bytes, MAX_DEVICES)
                .map_err(|error| format!("{name}: {error}"))?;
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
        let Part { name, bytes } = &self.chain_pem;
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        pem::certificates(bytes).map_err(|error| format!("{name}: {error}"))
    }
}

/// The usable lists, and the result of reading each.  Their signers can be authorities and
/// certificates of the chain.
fn revocations(
    read: Vec<ReadList>,
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
    for ReadList { name, list } in read {
        match list.and_then(|list| list.finish(&signers, now)) {
            Ok(list) => {
                let list = Arc::new(list);
                lists.push(List::Used(Arc::clone(&list)));
                usable.push(list);
            }
            Err(error) => {
                let why = format!("{name}: {error}");
                lists.push(List::Unusable(why.clone()));
                unusable.push(Unusable { issuers: error.issuer.into_iter().collect(), why });
            }
        }
    }
    (Revocations::new(usable).with_unusable(unusable), lists)
}

impl Part {
    fn read(path: &Path, limit: u64) -> Result<Self, String> {
        let bytes = read_input(path, limit).map_err(|error| error.to_string())?;
        Ok(Self { name: file_name(path), bytes })
    }

    fn into_list_response(self) -> Self {
        Self { bytes: list_response(&self.bytes), ..self }
    }
}

impl ReadList {
    /// Reads a list of any size.
    fn from_file(path: &Path) -> Result<Self, String> {
        expect_revocation_list(path).map_err(|error| error.to_string())?;
        let mut reader = Box::new(ListReader::new(u64::MAX));
        let read = read_in_pieces(path, |piece| reader.feed(piece));
        let read = read.map_err(|error| error.to_string())?;
        Ok(Self { name: file_name(path), list: read.map(|()| reader) })
    }

    fn from_bytes(name: String, bytes: &[u8]) -> Self {
        let mut reader = Box::new(ListReader::new(u64::MAX));
        let read = reader.feed(bytes);
        Self { name, list: read.map(|()| reader) }
    }
}

fn file_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".into() } else { path.display().to_string() }
}
