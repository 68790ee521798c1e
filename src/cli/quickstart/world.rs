//! What the quickstart makes on disk: five small trust domains, a server certificate, lists, and the
//! gateway's configuration file.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::cli::quickstart::crl::{self, Entry, List, Reason};
use crate::cli::quickstart::pki::{Authority, Identity, Subject};
use crate::runtime::lock_file::DirectoryLock;
use crate::trust::subject::SubjectField;
use crate::trust::subject::SubjectId;
use crate::x509::time::Timestamp;

/// How long lists of the quickstart are good for.
const LIST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The file that tells outside clients where everything is; also the mark of a quickstart directory.
pub const INDEX: &str = "quickstart.json";

/// Where everything listens.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Token plane.
    pub token: SocketAddr,
    /// Metadata and JWKS.
    pub public: SocketAddr,
    /// Directory over TLS.
    pub directory: SocketAddr,
    /// Directory over plain HTTP, loopback.
    pub directory_http: SocketAddr,
    /// Admin plane.
    pub admin: SocketAddr,
    /// Revocation lists.
    pub crl: SocketAddr,
}

/// One trust domain: a configuration, its authorities and its devices.
pub struct Domain {
    /// Short name, in file names and addresses.
    pub slug: &'static str,
    /// How its devices are told apart.
    pub field: SubjectField,
    /// The anchor.
    pub root: Authority,
    /// Issues the devices' certificates.
    pub issuer: Authority,
    /// Two devices, and in one domain a third that is to be revoked.
    pub devices: Vec<Member>,
}

/// One device.
pub struct Member {
    /// Short name, in file names.
    pub name: String,
    /// What the gateway will call it.
    pub subject_id: String,
    /// Certificate and key.
    pub identity: Identity,
}

/// Everything on disk.
pub struct World {
    /// The quickstart directory.
    pub dir: PathBuf,
    /// Where everything listens.
    pub ports: Ports,
    /// The authority of the gateway's own certificate.
    pub server_root: Authority,
    /// The gateway's own certificate.
    pub server: Identity,
    /// One trust domain for each subject field.
    pub domains: Vec<Domain>,
    /// The bearer token that administrators of the directory use.
    pub directory_token: String,
}

impl Ports {
    /// The default ports, each replaced by a free one where it is taken.
    ///
    /// # Errors
    /// No free port.
    pub fn choose() -> anyhow::Result<Self> {
        Self::preferring([8443, 8444, 8445, 8446, 9090, 8447])
    }

    /// Free ports.
    ///
    /// # Errors
    /// No free port.
    pub fn free() -> anyhow::Result<Self> {
        Self::preferring([0; 6])
    }

    fn preferring(ports: [u16; 6]) -> anyhow::Result<Self> {
        // All are held until the last is chosen, so that none is handed out twice.
        let mut held = Vec::new();
        let mut port = |preferred: u16| -> anyhow::Result<SocketAddr> {
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let socket = TcpListener::bind(local(preferred))
                .or_else(|_| TcpListener::bind(local(0)))
                .context("no free port on loopback")?;
            let address = socket.local_addr()?;
            held.push(socket);
            Ok(address)
        };
        let [token, public, directory, directory_http, admin, crl] = ports;
        Ok(Self {
            token: port(token)?,
            public: port(public)?,
            directory: port(directory)?,
            directory_http: port(directory_http)?,
            admin: port(admin)?,
            crl: port(crl)?,
        })
    }
}

impl World {
    /// Makes the PKI and writes all of it below `dir`.
    ///
    /// # Errors
    /// `dir` holds something else than an earlier quickstart; a key or a file could not be made.
    pub fn create(dir: &Path, ports: Ports, now: Timestamp) -> anyhow::Result<Self> {
        clear(dir)?;
        for sub in ["pki", "crl"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {sub}"))?;
        }
        let dir = dir.canonicalize().context("the quickstart directory")?;
        let server_root = Authority::root("Quickstart Server Root", now)?;
        let server = server_root.server(
            &Subject {
                common_name: "localhost".into(),
                dns: vec!["localhost".into()],
                ip: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
                ..Subject::default()
            },
            now,
        )?;
        let domains = SubjectField::ALL
            .into_iter()
            .map(|field| Domain::create(field, now))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut secret = [0; 24];
        aws_lc_rs::rand::fill(&mut secret).ok().context("no randomness")?;
        let directory_token = secret.iter().map(|b| format!("{b:02x}")).collect();
        let world = Self { dir, ports, server_root, server, domains, directory_token };
        world.write(now)?;
        Ok(world)
    }

    fn write(&self, now: Timestamp) -> anyhow::Result<()> {
        self.put("pki/server-root.pem", &self.server_root.certificate_pem())?;
        self.put("pki/server.pem", &self.server.chain_pem)?;
        self.put_secret("pki/server.key", &self.server.key_pem)?;
        for domain in &self.domains {
            let slug = domain.slug;
            for (kind, authority) in [("root", &domain.root), ("issuer", &domain.issuer)] {
                self.put(&format!("pki/{slug}-{kind}.pem"), &authority.certificate_pem())?;
                self.put_secret(&format!("pki/{slug}-{kind}.key"), &authority.key_pem())?;
            }
            for device in &domain.devices {
                let name = &device.name;
                self.put(&format!("pki/{name}.pem"), &device.identity.certificate_pem)?;
                self.put(&format!("pki/{name}-chain.pem"), &device.identity.chain_pem)?;
                self.put_secret(&format!("pki/{name}.key"), &device.identity.key_pem)?;
            }
            // The root's list says that the issuer is good, the issuer's that its devices are.
            self.publish(slug, "root", &domain.root, None, 1, &[], now)?;
            self.publish(slug, "issuer", &domain.issuer, None, 1, &[], now)?;
            self.publish(slug, "issuer", &domain.issuer, Some(1), 2, &[], now)?;
        }
        self.put_secret("anchorgate.toml", &self.config())
    }

    /// Issues a list and puts it where the CRL server finds it.
    ///
    /// # Errors
    /// Signing or writing failed.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the list or of its place")]
    fn publish(
        &self,
        slug: &str,
        kind: &str,
        authority: &Authority,
        base: Option<u64>,
        number: u64,
        entries: &[Entry],
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let next_update = now.after(LIST_LIFETIME);
        // A little in the past: a list from the future is refused, and clocks are coarse.
        let this_update = Timestamp(now.0 - 60);
        let list = List { number, base, this_update, next_update, entries };
        let der = crl::issue(authority, &list)?;
        let name = crl_name(slug, kind, base.is_some());
        let path = self.dir.join("crl").join(&name);
        // Written aside and renamed: the CRL server never serves half a list.
        let aside = path.with_extension("new");
        fs::write(&aside, der)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Publishes a delta of `domain`'s issuer, with that CRL number, that revokes `member`.
    ///
    /// # Errors
    /// Signing or writing failed.
    pub fn revoke(
        &self,
        domain: &Domain,
        member: &Member,
        number: u64,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let entry = Entry {
            serial: member.identity.certificate.serial.clone(),
            at: Timestamp(now.0 - 60),
            reason: Reason::KeyCompromise,
        };
        self.publish(domain.slug, "issuer", &domain.issuer, Some(1), number, &[entry], now)
    }

    /// The body that creates `domain`'s configuration in the directory.
    pub fn configuration(&self, domain: &Domain) -> serde_json::Value {
        serde_json::json!({
            "displayName": format!("Quickstart {}", domain.slug),
            "tlsClientAuthParameter": domain.field.as_str(),
            "certificateAuthorities": self.authorities(domain),
        })
    }

    /// `domain`'s `certificateAuthorities`.
    pub fn authorities(&self, domain: &Domain) -> serde_json::Value {
        use base64::Engine as _;
        let base64 =
            |a: &Authority| base64::engine::general_purpose::STANDARD.encode(a.certificate.der());
        let url = |kind, delta| {
            format!("http://{}/{}", self.ports.crl, crl_name(domain.slug, kind, delta))
        };
        serde_json::json!([
            {
                "isRootAuthority": true,
                "certificate": base64(&domain.root),
                "certificateRevocationListUrl": url("root", false),
            },
            {
                "isRootAuthority": false,
                "certificate": base64(&domain.issuer),
                "certificateRevocationListUrl": url("issuer", false),
                "deltaCertificateRevocationListUrl": url("issuer", true),
            },
        ])
    }

    /// The file for outside clients.
    ///
    /// # Errors
    /// It could not be written.
    pub fn write_index(&self, configuration_ids: &[String]) -> anyhow::Result<()> {
        let file = |name: String| self.dir.join("pki").join(name).display().to_string();
        let devices = self.domains.iter().zip(configuration_ids).flat_map(|(domain, id)| {
            domain.devices.iter().take(2).map(move |device| IndexDevice {
                configuration_id: id.clone(),
                field: domain.field.as_str(),
                subject_id: device.subject_id.clone(),
                client_id: device.subject_id.clone(),
                cert: file(format!("{}.pem", device.name)),
                key: file(format!("{}.key", device.name)),
                chain: file(format!("{}-chain.pem", device.name)),
            })
        });
        let ports = &self.ports;
        let index = Index {
            pid: std::process::id(),
            token_endpoint: format!("https://localhost:{}/oauth2/token", ports.token.port()),
            metadata_url: format!(
                "https://localhost:{}/.well-known/oauth-authorization-server",
                ports.public.port()
            ),
            jwks_url: format!("https://localhost:{}/jwks.json", ports.public.port()),
            directory_url: format!("https://localhost:{}/beta", ports.directory.port()),
            directory_http_url: format!("http://127.0.0.1:{}/beta", ports.directory_http.port()),
            directory_token: self.directory_token.clone(),
            admin_url: format!("http://{}", ports.admin),
            ca_file: file("server-root.pem".into()),
            devices: devices.collect(),
            crl_dir: self.dir.join("crl").display().to_string(),
        };
        // Complete as soon as it is there, since others wait for it to appear; and it tells the token.
        let (aside, path) = ("quickstart.new", self.dir.join(INDEX));
        self.put_secret(aside, &serde_json::to_string_pretty(&index)?)?;
        fs::rename(self.dir.join(aside), &path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The gateway's configuration file.
    fn config(&self) -> String {
        use aws_lc_rs::digest::{SHA256, digest};
        let sha256: String = digest(&SHA256, self.directory_token.as_bytes())
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let p = &self.ports;
        let dir = self.dir.display();
        format!(
            r#"# Made by `anchorgate quickstart`; start the same gateway again, with the directory and the state
# that it left, with `anchorgate run --config` and this file.
data_dir = "{dir}/data"

[tls]
certificate = "{dir}/pki/server.pem"
key = "{dir}/pki/server.key"

[token]
listen = "{token}"

[public]
listen = "{public}"

[admin]
listen = "{admin}"

[oauth]
issuer = "https://localhost:{public_port}"
token_url = "https://localhost:{token_port}"
audience = "https://api.quickstart.example"
scopes = ["telemetry:write", "config:read"]
default_scopes = ["telemetry:write"]
token_lifetime = "5m"

[directory]
listen = "{directory}"
listen_http = "{directory_http}"
public_url = "https://localhost:{directory_port}"

[[directory.tokens]]
sha256 = "{sha256}"
permissions = [
    "MutualTlsOauthConfiguration.ReadWrite.All", "AppCertTrustConfiguration.ReadWrite.All",
    "DeviceTemplate.ReadWrite.All", "Device.ReadWrite.All",
]

# The gateway is a client of the directory like any other, over HTTP.
[[graph]]
name = "quickstart"
url = "http://127.0.0.1:{directory_http_port}"
every = "2s"

[graph.credential]
token = "{directory_token}"

[revocation]
min_interval = "1s"
max_interval = "2s"
"#,
            token = p.token,
            public = p.public,
            admin = p.admin,
            directory = p.directory,
            directory_http = p.directory_http,
            public_port = p.public.port(),
            token_port = p.token.port(),
            directory_port = p.directory.port(),
            directory_http_port = p.directory_http.port(),
            directory_token = self.directory_token,
        )
    }

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Like [`World::put`], readable by the owner alone.
    fn put_secret(&self, name: &str, text: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.dir.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Domain {
    fn create(field: SubjectField, now: Timestamp) -> anyhow::Result<Self> {
        let slug = match field {
            SubjectField::SubjectDn => "dn",
            SubjectField::SanDns => "dns",
            SubjectField::SanUri => "uri",
            SubjectField::SanIp => "ip",
            SubjectField::SanEmail => "email",
        };
        let root = Authority::root(&format!("Quickstart {slug} Root"), now)?;
        let issuer = root.intermediate(&format!("Quickstart {slug} Issuer"), now)?;
        // The third device of one domain is there to be revoked; the listed ones stay good.
        let count = if field == SubjectField::SanDns { 3 } else { 2 };
        let devices = (1..=count)
            .map(|n| Member::create(&issuer, field, slug, n, now))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { slug, field, root, issuer, devices })
    }
}

impl Member {
    fn create(
        issuer: &Authority,
        field: SubjectField,
        slug: &str,
        number: u8,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let name = format!("{slug}-{number}");
        let mut subject = Subject { common_name: format!("device {name}"), ..Subject::default() };
        match field {
            SubjectField::SubjectDn => {}
            SubjectField::SanDns => subject.dns = vec![format!("{name}.devices.example")],
            SubjectField::SanUri => subject.uri = vec![format!("urn:quickstart:device:{number}")],
            SubjectField::SanIp => subject.ip = vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))],
            SubjectField::SanEmail => subject.email = vec![format!("{name}@devices.example")],
        }
        let identity = issuer.client(&subject, now)?;
        let subject_id = SubjectId::of(&identity.certificate, field)?.as_str().to_owned();
        Ok(Self { name, subject_id, identity })
    }
}

fn crl_name(slug: &str, kind: &str, delta: bool) -> String {
    format!("{slug}-{kind}{}.crl", if delta { "-delta" } else { "" })
}

/// Empties `dir` if an earlier quickstart made it; refuses anything else.
fn clear(dir: &Path) -> anyhow::Result<()> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let made_by_us =
        dir.join("anchorgate.toml").exists() && dir.join("pki/server-root.pem").exists();
    if !is_empty && !made_by_us {
        bail!("{} holds something else than a quickstart; name an empty directory", dir.display());
    }
    if made_by_us {
        // A gateway that runs there has its claim: it is not to lose its files.
        DirectoryLock::acquire(&dir.join("data"))?;
    }
    for sub in ["pki", "crl", "data"] {
        match fs::remove_dir_all(dir.join(sub)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}/{sub}", dir.display()));
            }
            _ => {}
        }
    }
    for file in [INDEX, "anchorgate.toml"] {
        let _ = fs::remove_file(dir.join(file));
    }
    Ok(())
}

#[derive(Serialize)]
struct Index {
    pid: u32,
    token_endpoint: String,
    metadata_url: String,
    jwks_url: String,
    directory_url: String,
    directory_http_url: String,
    directory_token: String,
    admin_url: String,
    ca_file: String,
    devices: Vec<IndexDevice>,
    crl_dir: String,
}

#[derive(Serialize)]
struct IndexDevice {
    configuration_id: String,
    field: &'static str,
    subject_id: String,
    client_id: String,
    cert: String,
    key: String,
    chain: String,
}
