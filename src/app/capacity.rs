//! The connections of each listener, fitted to the limit on open files.
//!
//! # Design notes
//! Fetches of lists, polls of directories, stores and logs need files too.  If connections could use all
//! of them, an overload would stop the updates of trust.  So a part of the limit is kept for the rest.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;
use crate::http::connections::Shares;
use crate::http::listen::MAX_CONNECTIONS;

/// Connections of the admin listener, which few clients use.
const ADMIN: usize = 256;
/// Connections of the health listener.
const HEALTH: usize = 256;
/// Largest number of files that connections may not use.
const MAX_RESERVED: usize = 1_024;

/// Numbers of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Limit on open files; `None` for no limit.
    files: Option<u64>,
    /// 0 in a hub, as `public`.
    pub(crate) token: usize,
    pub(crate) public: usize,
    /// 0 without a TLS listener of the directory.
    pub(crate) directory: usize,
    /// 0 without a plain listener of the directory.
    pub(crate) directory_http: usize,
    pub(crate) admin: usize,
    /// 0 without a health listener.
    pub(crate) health: usize,
    /// The configuration allows more connections than fit.
    pub(crate) is_reduced: bool,
    /// Numbers before a reduction, in the order of the members; 0 if nothing was reduced.
    wanted: [usize; 4],
}

impl Capacity {
    /// Raises the limit on open files as far as possible, and fits the connections of `config` to it.
    pub(super) fn raise(config: &mut Config) -> Self {
        let capacity = Self::raised(config);
        match capacity.is_reduced {
            true => warn!("{capacity}"),
            false => info!("{capacity}"),
        }
        capacity.apply(config);
        capacity
    }

    /// Raises the limit on open files, and returns what fits it.
    pub(crate) fn raised(config: &Config) -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let files = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(_) => current,
        };
        Self::fitting(config, files)
    }

    /// Sets the connections of the TLS listeners.
    fn apply(self, config: &mut Config) {
        // In a hub, the bounds of the public listener are those of the directory.
        let public = if config.is_hub() { self.directory } else { self.public };
        for (listener, connections) in
            [(&mut config.token, self.token), (&mut config.public, public)]
        {
            let shares = listener.bounds.shares.clone();
            listener.bounds.shares = at_most(shares, connections);
        }
    }

    fn fitting(config: &Config, files: Option<u64>) -> Self {
        let directory = config.directory.as_ref();
        let public = config.public.bounds.shares.connections;
        let of_tokens = |connections| if config.is_hub() { 0 } else { connections };
        let wanted = Self {
            files,
            token: of_tokens(config.token.bounds.shares.connections),
            public: of_tokens(public),
            directory: directory.and_then(|part| part.listen).map_or(0, |_| public),
            directory_http: directory
                .and_then(|part| part.listen_http)
                .map_or(0, |_| MAX_CONNECTIONS),
            admin: ADMIN,
            health: config.health.map_or(0, |_| HEALTH),
            is_reduced: false,
            wanted: [0; 4],
        };
        wanted.fit()
    }

    /// Reduces the largest numbers if the sum does not fit.  The operators' listener keeps its number.
    fn fit(self) -> Self {
        let Some(files) = self.files.and_then(|files| usize::try_from(files).ok()) else {
            return self;
        };
        let admin = self.admin.min(files / 8).max(1);
        let health = self.health.min((files / 16).max(1));
        let room = files.saturating_sub(reserved(files)).saturating_sub(admin + health);
        let wanted = self.connections();
        let most = largest_share(room, wanted);
        let part = |connections: usize| match connections {
            0 => 0,
            _ => connections.min(most).max(1),
        };
        let fitted = Self {
            files: self.files,
            token: part(self.token),
            public: part(self.public),
            directory: part(self.directory),
            directory_http: part(self.directory_http),
            admin,
            health,
            is_reduced: false,
            wanted: self.wanted,
        };
        match fitted == self {
            true => fitted,
            false => Self { is_reduced: true, wanted, ..fitted },
        }
    }

    /// Numbers that can be reduced.
    fn connections(&self) -> [usize; 4] {
        [self.token, self.public, self.directory, self.directory_http]
    }
}

/// Returns the number that, as a limit of each of `wanted`, makes their sum fit in `room`.
fn largest_share(room: usize, mut wanted: [usize; 4]) -> usize {
    wanted.sort_unstable();
    let (mut rest, mut others) = (room, wanted.len());
    for number in wanted {
        let share = rest / others;
        if number > share {
            return share;
        }
        rest -= number;
        others -= 1;
    }
    usize::MAX
}

/// Files that connections may not use: a quarter, at least 128 and at most 1,024.
fn reserved(files: usize) -> usize {
    (files / 4).clamp(128, MAX_RESERVED)
}

/// Returns `shares` with at most `connections`.
fn at_most(shares: Shares, connections: usize) -> Shares {
    if shares.connections <= connections {
        return shares;
    }
    Shares {
        connections,
        per_address: shares.per_address.min(connections),
        per_certificate: shares.per_certificate.min(connections),
        silent: Shares::new(connections).silent,
        ..shares
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTENERS: [&str; 4] = ["token", "public", "directory", "directory (plain)"];
        write!(f, "connections: ")?;
        let connections = self.connections();
        for (name, number) in LISTENERS.iter().zip(connections).filter(|(_, n)| *n > 0) {
            write!(f, "{name} {number}, ")?;
        }
        write!(f, "admin {}", self.admin)?;
        if self.health > 0 {
            write!(f, ", health {}", self.health)?;
        }
        match self.files {
            Some(files) => write!(f, "; limit on open files: {files}")?,
            None => write!(f, "; no limit on open files")?,
        }
        if !self.is_reduced {
            return Ok(());
        }
        for ((name, number), wanted) in LISTENERS.iter().zip(connections).zip(self.wanted) {
            if number < wanted {
                write!(f, "; {name} reduced from {wanted}")?;
            }
        }
        let others = self.admin + self.health;
        // As many as leave room for the largest reserve.
        let needed = self.wanted.iter().sum::<usize>() + others + MAX_RESERVED;
        write!(f, "; {needed} files are needed: raise LimitNOFILE or `ulimit -Hn`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Capacity = Capacity {
        files: None,
        token: 20_000,
        public: 20_000,
        directory: 0,
        directory_http: 1_024,
        admin: 256,
        health: 256,
        is_reduced: false,
        wanted: [0; 4],
    };

    #[test]
    fn names_the_listeners_that_are_on_and_what_was_reduced() {
        let fitted = Capacity { files: Some(20_000), ..WANTED }.fit();
        assert_eq!(
            fitted.to_string(),
            "connections: token 8720, public 8720, directory (plain) 1024, admin 256, health 256; limit on \
             open files: 20000; token reduced from 20000; public reduced from 20000; 42560 files are needed: \
             raise LimitNOFILE or `ulimit -Hn`"
        );
        let hub = Capacity { token: 0, public: 0, health: 0, ..WANTED }.fit();
        let expected = "connections: directory (plain) 1024, admin 256; no limit on open files";
        assert_eq!(hub.to_string(), expected);
    }

    fn sum(capacity: &Capacity) -> usize {
        let Capacity { token, public, directory, directory_http, admin, health, .. } = capacity;
        token + public + directory + directory_http + admin + health
    }

    #[test]
    fn keeps_files_for_everything_but_connections() {
        for (files, reserved) in [(256, 128), (1_024, 256), (4_096, 1_024), (30_000, 1_024)] {
            let fitted = Capacity { files: Some(files), ..WANTED }.fit();
            assert!(fitted.is_reduced);
            assert!(sum(&fitted) + reserved <= usize::try_from(files).expect("small"), "{fitted}");
            assert!(fitted.admin >= 1 && fitted.directory_http >= 1 && fitted.directory == 0);
            assert!(fitted.token >= fitted.directory_http, "the largest are reduced: {fitted}");
        }
        let small = Capacity { files: Some(20_000), public: 2, ..WANTED }.fit();
        assert_eq!((small.public, small.directory_http, small.admin), (2, 1_024, 256), "{small}");
        assert_eq!(small.token, 20_000 - 1_024 - 256 - 256 - 2 - 1_024);
        for files in [None, Some(65_536)] {
            assert_eq!(Capacity { files, ..WANTED }.fit(), Capacity { files, ..WANTED });
        }
    }

    #[test]
    fn reduces_the_limits_of_one_peer_too() {
        let shares = at_most(Shares { per_address: 50, ..Shares::new(20_000) }, 400);
        assert_eq!(shares, Shares { per_address: 50, ..Shares::new(400) });
        assert_eq!(at_most(Shares::new(10), 400), Shares::new(10));
    }
}
