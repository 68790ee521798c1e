//! Damage to the files of a gateway that does not run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::gateway::{lists_folder, state_files};
use crate::network::Domain;
use crate::random::Random;

/// Damages one file of a domain, and notes the effect.  Returns its name.
pub fn damage(random: &mut Random, folder: &Path, domain: &mut Domain) -> Option<String> {
    let [state, devices] = state_files(folder, domain.name);
    let (path, what) = match random.below(3) {
        0 => {
            domain.directory.model.is_exact = false;
            (state, "configurations".to_owned())
        }
        1 => {
            domain.directory.model.devices_are_exact = false;
            (devices, "devices".to_owned())
        }
        _ => {
            let (path, authority) = random_copy(random, folder, domain)?;
            domain.issuer.lists[authority].model = None;
            (path, format!("list of authority {authority}"))
        }
    };
    let whole = fs::read(&path).ok()?;
    let middle = whole.len() / 2;
    let bytes = match random.below(4) {
        0 => Vec::new(),
        1 => whole[..middle].to_vec(),
        2 => whole.iter().enumerate().map(|(n, byte)| byte ^ u8::from(n == middle)).collect(),
        _ => vec![0; whole.len()],
    };
    fs::write(&path, bytes).expect("room");
    Some(format!("{what} of {}", domain.name))
}

/// One of the copies of lists of a domain, with the number of its authority.
fn random_copy(random: &mut Random, folder: &Path, domain: &Domain) -> Option<(PathBuf, usize)> {
    let authority = random.below(domain.pki.authorities.len() as u64) as usize;
    let url = domain.pki.authorities[authority].crl_url.as_bytes();
    for entry in fs::read_dir(lists_folder(folder)).ok()? {
        let path = entry.ok()?.path();
        let bytes = fs::read(&path).ok()?;
        if bytes.windows(url.len()).any(|window| window == url) {
            return Some((path, authority));
        }
    }
    None
}
