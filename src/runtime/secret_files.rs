//! The rule for the modes of files with secrets.
//!
//! # Design notes
//! Kubernetes (`fsGroup`), systemd and distributions give a service access to a secret through a group.  So a
//! group may have access if it is root's or one of this process's.  A process of root accepts every group,
//! because it also checks files of a service that runs as another user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid, getgroups};

/// Files with secrets that are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileModes {
    /// Every file with a [`ModeFault`].
    #[default]
    Strict,
    /// Files that all users can write.  Other faults are reported.  For gateways on loopback.
    Loopback,
    /// None.  Every fault is reported.  For mounts that cannot change modes.
    Unchecked,
}

impl FileModes {
    /// Returns true if a file with this fault is refused.
    pub fn refuses(self, fault: &ModeFault) -> bool {
        match self {
            Self::Strict => true,
            Self::Loopback => fault.mode & 0o002 != 0,
            Self::Unchecked => false,
        }
    }

    /// Checks a file with a secret.  A missing file has no fault.
    ///
    /// # Errors
    /// The fault of a file that is refused.
    pub(crate) fn check(self, path: &Path) -> Result<(), ModeFault> {
        match fault(path).filter(|fault| self.refuses(fault)) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// Users besides the owner who have access to a file with a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: {users} can {access} this file with a secret (mode {mode:04o}); run `chmod 600 {path}`, or \
     start with --allow-insecure-file-modes if the mount cannot change modes"
)]
pub struct ModeFault {
    path: PathBuf,
    users: String,
    access: &'static str,
    mode: u32,
}

/// Returns the fault of a file with a secret.
pub(crate) fn fault(path: &Path) -> Option<ModeFault> {
    let metadata = fs::metadata(path).ok()?;
    let (mode, group) = (metadata.mode() & 0o7777, metadata.gid());
    let (is_group, access) = access(mode, || is_trusted(group))?;
    let users = if is_group { format!("the group {group}") } else { "all users".to_owned() };
    Some(ModeFault { path: path.to_owned(), users, access, mode })
}

/// Returns true if only the group has access that it must not have, and the access.
fn access(mode: u32, is_trusted: impl FnOnce() -> bool) -> Option<(bool, &'static str)> {
    let (is_group, bits) = match mode {
        _ if mode & 0o006 != 0 => (false, mode),
        _ if mode & 0o060 != 0 && !is_trusted() => (true, mode >> 3),
        _ => return None,
    };
    Some((is_group, if bits & 0o002 != 0 { "write" } else { "read" }))
}

fn is_trusted(group: u32) -> bool {
    geteuid().is_root()
        || group == 0
        || getegid().as_raw() == group
        || getgroups().unwrap_or_default().iter().any(|own| own.as_raw() == group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const ALL: [FileModes; 3] = [FileModes::Strict, FileModes::Loopback, FileModes::Unchecked];

    #[test]
    fn a_secret_that_all_users_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        assert_eq!(ALL.map(|modes| modes.check(&path).is_ok()), [true; 3], "a missing file");
        fs::write(&path, "x").expect("written");
        // Accepted by a strict, a loopback and an unchecked gateway.
        for (mode, accepted, access) in [
            (0o400, [true; 3], ""),
            (0o600, [true; 3], ""),
            (0o440, [true; 3], ""),
            (0o660, [true; 3], ""),
            (0o604, [false, true, true], "all users can read"),
            (0o644, [false, true, true], "all users can read"),
            (0o602, [false, false, true], "all users can write"),
            (0o666, [false, false, true], "all users can write"),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(ALL.map(|modes| modes.check(&path).is_ok()), accepted, "{mode:o}");
            let text = fault(&path).map(|fault| fault.to_string()).unwrap_or_default();
            assert!(text.contains(access), "{mode:o}: {text}");
            let names_mode =
                text.contains(&format!("mode {mode:04o}")) && text.contains("chmod 600");
            assert_eq!(names_mode, !access.is_empty(), "{mode:o}: {text}");
        }
    }

    #[test]
    fn a_group_that_is_not_trusted_may_not_read() {
        for (mode, trusted, other) in [
            (0o600, None, None),
            (0o640, None, Some((true, "read"))),
            (0o660, None, Some((true, "write"))),
            (0o644, Some((false, "read")), Some((false, "read"))),
        ] {
            assert_eq!(access(mode, || true), trusted, "{mode:o}");
            assert_eq!(access(mode, || false), other, "{mode:o}");
        }
        assert!(is_trusted(0) && is_trusted(getegid().as_raw()));
    }

    /// A mount of a secret is a link to a file, whose mode counts.
    #[test]
    fn the_mode_of_a_links_target_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("key"), folder.path().join("link"));
        fs::write(&file, "x").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        for (mode, is_accepted) in [(0o440, true), (0o644, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(FileModes::Strict.check(&link).is_ok(), is_accepted, "{mode:o}");
        }
    }
}
