//! The memory budget of the process: connections are shed and refused before the kernel ends it.
//!
//! # Design notes
//! Each budget is a limit and a way to measure what counts against it.  The limit of a control group
//! counts memory of the kernel too, such as sockets, so its own count is used, without the cached files
//! that the kernel can drop.  A limit that the operator sets is compared with the resident memory.
//!
//! The measurement runs on a thread of its own: an overload of the others must not delay it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

/// Interval between two measurements.  A listener accepts at most a few hundred connections in it.
const INTERVAL: Duration = Duration::from_millis(20);
/// Percentage of a limit from which idle connections are closed for new ones.
const SHED: u64 = 80;
/// Percentage of a limit from which new connections are refused.
const REFUSE: u64 = 90;
/// Percentage of a limit below which the pressure ends.
const END: u64 = 75;
/// A limit above this is not a limit: version 1 of control groups has no other value for that.
const UNLIMITED: u64 = 1 << 60;

/// Degrees of pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Enough memory is free.
    Normal,
    /// Idle connections are closed, and new ones replace them.
    Shed,
    /// Idle connections are closed, and new ones are refused.
    Refuse,
}

/// The present pressure, shared by all listeners.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<AtomicU8>);

impl Pressure {
    /// The present level.
    pub fn level(&self) -> Level {
        match self.0.load(Ordering::Relaxed) {
            0 => Level::Normal,
            1 => Level::Shed,
            _ => Level::Refuse,
        }
    }

    /// Sets the level.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }
}

/// A limit in bytes, and the measurement that it applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The limit in bytes.
    pub limit: u64,
    measurement: Measurement,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Measurement {
    /// Resident memory of the process.
    Process,
    /// Folder of a control group, version 2.
    Group2(PathBuf),
    /// Folder of a control group, version 1.
    Group1(PathBuf),
}

impl Budget {
    /// A limit on the resident memory of the process.
    pub(crate) fn of_process(limit: u64) -> Self {
        Self { limit, measurement: Measurement::Process }
    }

    /// The lowest limit of the control groups of this process; `None` without a limit.
    pub(crate) fn of_control_group() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::of_groups(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// `groups` is the text of `/proc/self/cgroup`, and `root` the folder of the control groups.
    fn of_groups(groups: &str, root: &Path) -> Option<Self> {
        let folders = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            match controllers {
                "" => Some((root.to_owned(), path.to_owned(), true)),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    Some((root.join("memory"), path.to_owned(), false))
                }
                _ => None,
            }
        });
        let mut budgets = Vec::new();
        for (top, path, is_version_2) in folders {
            let file = if is_version_2 { "memory.max" } else { "memory.limit_in_bytes" };
            // A limit of a group above applies as well.  In a container, the path may not exist below the
            // top that is mounted there.
            for folder in top.join(path).ancestors().take_while(|folder| folder.starts_with(&top)) {
                let limit = number(&folder.join(file));
                if let Some(limit) = limit.filter(|limit| *limit < UNLIMITED) {
                    let folder = folder.to_owned();
                    let measurement = match is_version_2 {
                        true => Measurement::Group2(folder),
                        false => Measurement::Group1(folder),
                    };
                    budgets.push(Self { limit, measurement });
                }
            }
        }
        budgets.into_iter().min_by_key(|budget| budget.limit)
    }

    /// The bytes that count against the limit.
    fn used(&self) -> Option<u64> {
        let group = |folder: &Path, usage: &str, prefix: &str| {
            let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
            let cached: u64 = ["inactive_file", "active_file"]
                .iter()
                .filter_map(|name| field(&stat, &format!("{prefix}{name}")))
                .sum();
            Some(number(&folder.join(usage))?.saturating_sub(cached))
        };
        match &self.measurement {
            Measurement::Process => resident(),
            Measurement::Group2(folder) => group(folder, "memory.current", ""),
            Measurement::Group1(folder) => group(folder, "memory.usage_in_bytes", "total_"),
        }
    }
}

/// The number in a file.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The value of a line `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Resident memory of this process in bytes.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Measures `budgets` in a thread of its own, and sets `pressure`, for as long as anything else uses it.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(budgets: Vec<Budget>, pressure: &Pressure, registry: &mut Registry) -> io::Result<()> {
    let limit = Gauge::<i64, AtomicI64>::default();
    let used = Gauge::<i64, AtomicI64>::default();
    registry.register(
        "memory_limit_bytes",
        "The memory limit that is closest to being reached; 0 without a limit",
        limit.clone(),
    );
    registry.register("memory_used_bytes", "Memory that counts against the limit", used.clone());
    if budgets.is_empty() {
        return Ok(());
    }
    let shared = Arc::downgrade(&pressure.0);
    let measure = move || {
        let mut level = Level::Normal;
        while let Some(pressure) = shared.upgrade().map(Pressure) {
            let shares = budgets.iter().filter_map(|budget| Some((budget.used()?, budget.limit)));
            let percent = |(used, limit): (u64, u64)| used.saturating_mul(100) / limit.max(1);
            if let Some(closest) = shares.max_by_key(|share| percent(*share)) {
                used.set(i64::try_from(closest.0).unwrap_or(i64::MAX));
                limit.set(i64::try_from(closest.1).unwrap_or(i64::MAX));
                let next = next(level, percent(closest));
                report(level, next, closest);
                level = next;
                pressure.set(level);
            }
            drop(pressure);
            thread::sleep(INTERVAL);
        }
    };
    thread::Builder::new().name("memory".to_owned()).spawn(measure).map(drop)
}

/// The level at a percentage of the limit.  A level ends below the percentage at which it begins, so that
/// it does not change with each measurement.
fn next(level: Level, percent: u64) -> Level {
    match percent {
        REFUSE.. => Level::Refuse,
        SHED.. => Level::Shed,
        END.. => level.min(Level::Shed),
        _ => Level::Normal,
    }
}

fn report(before: Level, level: Level, (used, limit): (u64, u64)) {
    match (before, level) {
        (Level::Normal, Level::Shed | Level::Refuse) => warn!(
            used,
            limit, "memory is short: idle connections are closed, and new ones may be refused"
        ),
        (Level::Shed | Level::Refuse, Level::Normal) => {
            info!(used, limit, "memory is sufficient again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("written");
        }
    }

    #[test]
    fn finds_the_lowest_limit_of_the_groups_above_in_version_2() {
        let root = tempfile::tempdir().expect("a folder");
        let pod = root.path().join("pod");
        write(&pod, &[("memory.max", "1000\n"), ("memory.current", "900\n")]);
        write(&pod, &[("memory.stat", "anon 1\ninactive_file 200\nactive_file 50\nfile 300\n")]);
        write(&pod.join("app"), &[("memory.max", "max\n")]);
        let budget = Budget::of_groups("0::/pod/app\n", root.path()).expect("a limit");
        assert_eq!((budget.limit, budget.used()), (1000, Some(650)));
        assert_eq!(Budget::of_groups("0::/elsewhere\n", root.path()), None);
    }

    #[test]
    fn finds_the_limit_in_version_1() {
        let root = tempfile::tempdir().expect("a folder");
        let memory = root.path().join("memory");
        write(&memory, &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n";
        assert_eq!(Budget::of_groups(groups, root.path()), None);
        let usage = [("memory.limit_in_bytes", "500"), ("memory.usage_in_bytes", "400")];
        write(&memory.join("x"), &usage);
        write(
            &memory.join("x"),
            &[("memory.stat", "total_inactive_file 30\ntotal_active_file 20\n")],
        );
        let budget = Budget::of_groups(groups, root.path()).expect("a limit");
        assert_eq!((budget.limit, budget.used()), (500, Some(350)));
    }

    #[test]
    fn a_level_ends_below_the_share_at_which_it_begins() {
        use Level::{Normal, Refuse, Shed};
        for (before, percent, after) in [
            (Normal, 79, Normal),
            (Normal, 80, Shed),
            (Shed, 76, Shed),
            (Shed, 74, Normal),
            (Normal, 95, Refuse),
            (Refuse, 85, Shed),
            (Refuse, 78, Shed),
            (Refuse, 10, Normal),
        ] {
            assert_eq!(next(before, percent), after, "{before:?} {percent}");
        }
    }

    #[test]
    fn measures_this_process() {
        assert!(resident().is_some_and(|bytes| bytes > 1024 * 1024));
    }
}
