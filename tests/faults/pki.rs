//! Authorities and devices of the simulated trust domains.

use std::sync::{Arc, OnceLock};

use anchorgate::trust::judge::devices::UnverifiedChain;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::crl_maker::Ca;

/// Authorities of a domain.  A part of them is in its directory.
pub const AUTHORITIES: usize = 5;
/// Devices below each authority.
pub const DEVICES: usize = 2;

/// The certificates of one trust domain.
pub struct Pki {
    pub authorities: Vec<Authority>,
    pub devices: Vec<Device>,
}

/// An authority with its revocation list.
pub struct Authority {
    pub ca: Ca,
    pub base64: String,
    pub crl_url: String,
}

/// A device with its certificate.
pub struct Device {
    /// `externalDeviceId`, which equals the subject.
    pub id: String,
    pub authority: usize,
    pub serial: u8,
    pub chain: UnverifiedChain,
}

impl Pki {
    /// The certificates of the domains, made once.
    pub fn of(domain: usize) -> &'static Arc<Self> {
        static ALL: OnceLock<[Arc<Pki>; 2]> = OnceLock::new();
        &ALL.get_or_init(|| ["a", "b"].map(|name| Arc::new(Self::make(name))))[domain]
    }

    fn make(domain: &str) -> Self {
        let (mut authorities, mut devices) = (Vec::new(), Vec::new());
        for authority in 0..AUTHORITIES {
            let ca = Ca::root(&format!("{domain}-{authority}"));
            for number in 0..DEVICES {
                let (name, serial) = (format!("{domain}-{authority}-{number}"), number as u8 + 10);
                let leaf = ca.issue(&name, &[serial], &[]);
                let chain = UnverifiedChain::from_der(&[leaf.der().to_vec()]).expect("a chain");
                devices.push(Device { id: format!("CN={name}"), authority, serial, chain });
            }
            let crl_url = format!("http://crl.{domain}.example/{authority}.crl");
            let base64 = STANDARD.encode(ca.certificate.der());
            authorities.push(Authority { ca, base64, crl_url });
        }
        Self { authorities, devices }
    }
}
