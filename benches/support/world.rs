//! Fixtures for the benches of the request path: one trust domain in force with a device.

use std::sync::Arc;
use std::time::SystemTime;

use anchorgate::cli::quickstart::crl::{Entry, List, Reason, issue};
use anchorgate::cli::quickstart::pki::{Authority, Identity, Subject};
use anchorgate::runtime::live::{Active, Live, Writer};
use anchorgate::tls::{self, metrics::Metrics};
use anchorgate::token::keys::{Algorithm, SigningKey, SigningKeys};
use anchorgate::trust::configurations::{
    Authority as TrustedAuthority, Configuration, ConfigurationId, Configurations, Device, Devices,
};
use anchorgate::trust::revocation::Revocations;
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A trust domain with a root, an issuer and one device; both authorities have lists.
pub struct World {
    pub root: Authority,
    pub issuer: Authority,
    pub device: Identity,
    pub server_root: Authority,
    pub server: Identity,
    pub now: Timestamp,
}

impl World {
    pub fn new() -> Self {
        let now = Timestamp::from(SystemTime::now());
        let root = Authority::root("Bench Root", now).expect("a root");
        let issuer = root.intermediate("Bench Issuer", now).expect("an issuer");
        let device = issuer.client(&subject("device-1"), now).expect("a device");
        let server_root = Authority::root("Bench Server Root", now).expect("a root");
        let server = server_root.server(&subject("localhost"), now).expect("a server");
        Self { root, issuer, device, server_root, server, now }
    }

    /// A snapshot in which the issuer's list has `revoked` other devices.
    pub fn snapshot(&self, revoked: u64) -> Snapshot {
        let lists = [self.list(&self.root, 0), self.list(&self.issuer, revoked)];
        snapshot([&self.root.certificate, &self.issuer.certificate], lists)
    }

    fn list(&self, authority: &Authority, revoked: u64) -> Arc<RevocationList> {
        let entries: Vec<_> = (0..revoked)
            .map(|n| {
                // Serials of 16 bytes, like most authorities' serials; a hash spreads them.
                let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &n.to_be_bytes());
                let mut serial = hash.as_ref()[..16].to_vec();
                serial[0] = serial[0] & 0x7f | 0x40;
                Entry { serial: serial.into(), at: self.now, reason: Reason::KeyCompromise }
            })
            .collect();
        let list = List {
            number: 1,
            base: None,
            this_update: Timestamp(self.now.0 - 60),
            next_update: Timestamp(self.now.0 + 86_400),
            entries: &entries,
        };
        let der = issue(authority, &list).expect("a list");
        let signers = [Arc::clone(&authority.certificate)];
        Arc::new(RevocationList::read(&der, &signers, self.now).expect("a good list"))
    }

    /// A live cell with `snapshot`, new signing keys and the TLS configurations.
    pub fn live(&self, snapshot: Snapshot, config: &tls::Config) -> (Live, Writer) {
        let identity = certified(&self.server);
        Live::start(|live| {
            let tls = tls::build(config, &identity, live, &Metrics::default())?;
            let (trust, keys) = (Arc::new(snapshot), Arc::new(keys()));
            let policy = Arc::default();
            Ok::<_, tls::TlsError>(Active { trust, keys, policy, tls: Arc::new(tls) })
        })
        .expect("a cell")
    }
}

/// A snapshot that trusts a root with an intermediate authority.
pub(super) fn snapshot(
    [root, issuer]: [&Arc<Certificate>; 2],
    lists: [Arc<RevocationList>; 2],
) -> Snapshot {
    let authority = |certificate: &Arc<Certificate>, is_root| TrustedAuthority {
        certificate: Arc::clone(certificate),
        is_root,
        crl_url: Some("http://crl.example/list.crl".into()),
        delta_crl_url: None,
    };
    let configuration = Configuration {
        id: ConfigurationId::from("bench"),
        domain: Arc::default(),
        display_name: "bench".into(),
        kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
        authorities: vec![authority(root, true), authority(issuer, false)],
    };
    let anchors = Configurations::from_iter([configuration]);
    let revocations = Arc::new(Revocations::new(lists));
    Snapshot::new(1, Arc::new(anchors), revocations, Arc::default(), Arc::default())
}

/// A subject with this dNSName.
pub fn subject(name: &str) -> Subject {
    Subject { common_name: name.into(), dns: vec![name.into()], ..Subject::default() }
}

/// One ES256 key.
pub fn keys() -> SigningKeys {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .expect("a key");
    let key = SigningKey::from_pkcs8(Algorithm::Es256, der.as_ref()).expect("a key");
    SigningKeys::new(Arc::new(key), &[]).expect("a set")
}

fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let chain = chain(identity);
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
    Arc::new(CertifiedKey::from_der(chain, key, &tls::provider()).expect("they fit"))
}

/// The certificates that `identity` presents.
pub fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("PEM")
}
