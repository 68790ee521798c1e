//! The files of a quickstart: five small trust domains, a server certificate, revocation lists, and
//! the gateway's configuration.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cli::quickstart::crl::{self, Entry, List, Reason};
use crate::cli::quickstart::pki::{Authority, Identity, KeyKind, Subject};
use crate::runtime::lock_file::DirectoryLock;
use crate::trust::subject::{SubjectField, SubjectId};
use crate::x509::time::Timestamp;

/// Time from now to nextUpdate of the lists.
const LIST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Name of the index file.
pub(super) const INDEX: &str = "quickstart.json";

/// Name of the file with the operators' token.
pub(super) const ADMIN_TOKEN: &str = "admin-token";

/// Name of the file with the token of the directory's administrators.
pub(super) const DIRECTORY_TOKEN: &str = "directory-token";

/// Addresses of the listeners.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Token listener.
    pub token: SocketAddr,
    /// Public listener.
    pub public: SocketAddr,
    /// Directory over TLS.
    pub directory: SocketAddr,
    /// Directory over plain HTTP, loopback.
    pub directory_http: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Server of the revocation lists.
    pub crl: SocketAddr,
}

/// One trust domain: a configuration, its authorities and its devices.
pub struct Domain {
    /// Short name in file names and URLs.
    pub slug: &'static str,
    /// Subject field of its configuration.
    pub field: SubjectField,
    /// The anchor.
    pub root: Authority,
    /// Intermediate authority that issues the devices' certificates.
    pub issuer: Authority,
    /// Two devices, and in one domain a third that the demonstration revokes.
    pub devices: Vec<Member>,
}

/// One device.
pub struct Member {
    /// Short name in file names.
    pub name: String,
    /// Subject ID under the domain's configuration.
    pub subject_id: String,
    /// Certificate and key.
    pub identity: Identity,
}

/// All trust domains, and the directory on disk that contains them.
pub struct World {
    /// The quickstart directory.
    pub dir: PathBuf,
    /// Addresses of the listeners.
    pub ports: Ports,
    /// The authority of the gateway's server certificate.
    pub server_root: Authority,
    /// The gateway's server certificate.
    pub server: Identity,
    /// One trust domain for each subject field.
    pub domains: Vec<Domain>,
    /// The bearer token of the directory's administrators.
    pub directory_token: String,
    /// The bearer token of the gateway's operators.
    pub admin_token: String,
}

impl Ports {
    /// The default ports.  A port in use is replaced by a free one.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) fn choose() -> anyhow::Result<Self> {
        Self::preferring([8443, 8444, 8445, 8446, 9090, 8447])
    }

    /// Free ports.
    ///
    /// # Errors
    /// No port is free.
    pub fn free() -> anyhow::Result<Self> {
        Self::preferring([0; 6])
    }

    fn preferring(ports: [u16; 6]) -> anyhow::Result<Self> {
        // All sockets stay open until the last port is chosen, so that no port is chosen twice.
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
    /// Creates the PKI and writes all files below `dir`.
    ///
    /// # Errors
    /// `dir` contains other files than an earlier quickstart, or a key or file cannot be created.
    pub fn create(dir: &Path, ports: Ports, now: Timestamp) -> anyhow::Result<Self> {
        Self::create_with(KeyKind::default(), dir, ports, now)
    }

    /// Like [`World::create`], with this kind of keys for devices and their authorities.
    ///
    /// # Errors
    /// As for [`World::create`].
    pub fn create_with(
        keys: KeyKind,
        dir: &Path,
        ports: Ports,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        clear(dir)?;
        for sub in ["pki", "crl"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot create {}", sub.display()))?;
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
            .map(|field| Domain::create(keys, field, now))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (directory_token, admin_token) = (new_token()?, new_token()?);
        let world = Self { dir, ports, server_root, server, domains, directory_token, admin_token };
        world.write(now)?;
        Ok(world)
    }

    fn write(&self, now: Timestamp) -> anyhow::Result<()> {
        self.put("pki/server-root.pem", &self.server_root.certificate_pem())?;
        self.put("pki/server.pem", &self.server.chain_pem)?;
        self.put_secret("pki/server.key", &self.server.key_pem)?;
        self.put_secret(ADMIN_TOKEN, &self.admin_token)?;
        self.put_secret(DIRECTORY_TOKEN, &self.directory_token)?;
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
            // Empty lists: the root's for the issuer, and the issuer's for its devices.
            self.publish(slug, "root", &domain.root, None, 1, &[], now)?;
            self.publish(slug, "issuer", &domain.issuer, None, 1, &[], now)?;
            self.publish(slug, "issuer", &domain.issuer, Some(1), 2, &[], now)?;
        }
        self.write_settings("both")
    }

    /// Writes the gateway's configuration file.  `resumption` is the value of `tls.resumption`.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn write_settings(&self, resumption: &str) -> anyhow::Result<()> {
        self.put_secret("anchorgate.toml", &self.settings(resumption))
    }

    /// Issues a list and writes it to the directory of the CRL server.
    ///
    /// # Errors
    /// Signing or writing fails.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a field of the list or a part of its file name"
    )]
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
        // Slightly in the past, because a list from the future is refused and clocks are coarse.
        let this_update = Timestamp(now.0 - 60);
        let list = List { number, base, this_update, next_update, entries };
        let der = crl::issue(authority, &list)?;
        let name = crl_name(slug, kind, base.is_some());
        let path = self.dir.join("crl").join(&name);
        // Renamed into place, so that the CRL server never serves a partial list.
        let temporary = path.with_extension("new");
        fs::write(&temporary, der)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Publishes a delta list of `domain`'s issuer with this CRL number that revokes `member`.
    ///
    /// # Errors
    /// Signing or writing fails.
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

    /// The request body that creates the configuration of `domain` in the directory.
    pub fn configuration(&self, domain: &Domain) -> serde_json::Value {
        serde_json::json!({
            "displayName": format!("Quickstart {}", domain.slug),
            "tlsClientAuthParameter": domain.field.as_str(),
            "certificateAuthorities": self.authorities(domain),
        })
    }

    /// Address of a list of `domain`.
    pub(super) fn list_url(&self, domain: &Domain, kind: &str, delta: bool) -> String {
        format!("http://{}/{}", self.ports.crl, crl_name(domain.slug, kind, delta))
    }

    /// The `certificateAuthorities` of `domain`.
    pub fn authorities(&self, domain: &Domain) -> serde_json::Value {
        use base64::Engine as _;
        let base64 =
            |a: &Authority| base64::engine::general_purpose::STANDARD.encode(a.certificate.der());
        let url = |kind, delta| self.list_url(domain, kind, delta);
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

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Like [`World::put`], with permissions for the owner only.
    pub(super) fn put_secret(&self, name: &str, text: &str) -> anyhow::Result<()> {
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
    fn create(keys: KeyKind, field: SubjectField, now: Timestamp) -> anyhow::Result<Self> {
        let slug = match field {
            SubjectField::SubjectDn => "dn",
            SubjectField::SanDns => "dns",
            SubjectField::SanUri => "uri",
            SubjectField::SanIp => "ip",
            SubjectField::SanEmail => "email",
        };
        let root = Authority::root_with(keys, &format!("Quickstart {slug} Root"), now)?;
        let issuer = root.intermediate(&format!("Quickstart {slug} Issuer"), now)?;
        // The demonstration revokes the third device of one domain.  The index lists the first two.
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

fn new_token() -> anyhow::Result<String> {
    let mut secret = [0; 24];
    aws_lc_rs::rand::fill(&mut secret).ok().context("no random numbers available")?;
    Ok(secret.iter().map(|b| format!("{b:02x}")).collect())
}

fn crl_name(slug: &str, kind: &str, delta: bool) -> String {
    format!("{slug}-{kind}{}.crl", if delta { "-delta" } else { "" })
}

/// Empties `dir` if it contains an earlier quickstart.  Other contents are an error.
fn clear(dir: &Path) -> anyhow::Result<()> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let is_quickstart =
        dir.join("anchorgate.toml").exists() && dir.join("pki/server-root.pem").exists();
    if !is_empty && !is_quickstart {
        bail!(
            "{} contains files that are not of a quickstart; use an empty directory",
            dir.display()
        );
    }
    if is_quickstart {
        // Fails while a gateway runs there, which needs its files.
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
    for file in [INDEX, ADMIN_TOKEN, DIRECTORY_TOKEN, "anchorgate.toml"] {
        let _ = fs::remove_file(dir.join(file));
    }
    Ok(())
}
