//! Damage to the files of a gateway that does not run.

use std::fs;
use std::path::{Path, PathBuf};

use anchorgate::x509::certificate::Fingerprint;

use crate::gateway::{lists_folder, state_files};
use crate::network::Domain;
use crate::random::Random;

/// Damages one file of a domain, and notes the effect.  Returns its name.
pub fn damage(random: &mut Random, folder: &Path, domain: &mut Domain) -> Option<String> {
    let [state, devices] = state_files(folder, domain.name);
    let with_journal = random.chance(50);
    let (path, mut what) = match random.below(3) {
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
    let journal = journal_of(&path);
    if with_journal && journal.exists() {
        fs::write(journal, b"damaged").expect("room");
        what += " with its journal";
    }
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

/// The journal of removals beside a state.
fn journal_of(state: &Path) -> PathBuf {
    state.with_extension("state.journal")
}

/// Makes every write of a gateway's state fail, or lets them succeed again: a folder has the name of each
/// new file.
pub fn fail_writes(folder: &Path, domains: &[Domain], fails: bool) {
    let mut files = Vec::new();
    for domain in domains {
        for state in state_files(folder, domain.name) {
            files.push(journal_of(&state));
            files.push(state);
        }
        for authority in &domain.pki.authorities {
            let name = Fingerprint::of(authority.crl_url.as_bytes());
            files.push(lists_folder(folder).join(format!("{name}.crl")));
        }
    }
    for file in files {
        let mut name = file.into_os_string();
        name.push(".new");
        let name = Path::new(&name);
        match fails {
            // A file is left there by a write that a crash ended.
            true => {
                let _ = fs::remove_file(name);
                fs::create_dir_all(name).expect("room");
            }
            false => {
                let _ = fs::remove_dir(name);
            }
        }
    }
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
