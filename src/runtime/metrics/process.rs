//! Metrics of the process and the build, with the names that client libraries of Prometheus use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

use crate::runtime::memory;

/// Clock ticks in a second, in the files of `/proc`: the same on each architecture.
const TICKS: f64 = 100.0;

/// Registers the metrics of the process.  `registry` has no prefix.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    commit: &'static str,
    platform: String,
    crypto: &'static str,
    fips: &'static str,
}

/// Registers the metric that names the build.
pub(crate) fn register_build(registry: &mut Registry) {
    let builds = Family::<Build, Gauge>::default();
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("ANCHORGATE_COMMIT").unwrap_or("unknown"),
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        crypto: "aws-lc-rs",
        fips: if aws_lc_rs::try_fips_mode().is_ok() { "true" } else { "false" },
    };
    builds.get_or_create(&build).set(1);
    registry.register("build_info", "1, with the facts about the build as labels", builds);
}

/// Reads the metrics of the process from `/proc` when they are collected.
#[derive(Debug)]
struct Process;

/// Facts about the process.
#[derive(Debug, Default, PartialEq)]
struct Facts {
    cpu_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
    /// Since 1970.
    start_seconds: f64,
}

impl Facts {
    fn read() -> Option<Self> {
        let file = |name: &str| fs::read_to_string(name).ok();
        let resident = memory::resident().and_then(|bytes| i64::try_from(bytes).ok());
        Self::of(&file("/proc/self/stat")?, &file("/proc/stat")?, resident?)
    }

    /// Reads the texts of `/proc/self/stat` and `/proc/stat`.
    fn of(process: &str, system: &str, resident_bytes: i64) -> Option<Self> {
        // The name of the program may contain spaces and parentheses.
        let (_, fields) = process.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / TICKS);
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(Self {
            cpu_seconds: ticks(11)? + ticks(12)?,
            threads: number(17)?,
            start_seconds: boot.trim().parse::<f64>().ok()? + ticks(19)?,
            virtual_bytes: number(20)?,
            resident_bytes,
        })
    }
}

fn open_files() -> Option<i64> {
    // The directory is open while it is read.
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok().map(|count| count - 1)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => {
                let out = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(out)
            }
            None => Ok(()),
        };
        #[allow(clippy::cast_precision_loss, reason = "below 2^53, where numbers are exact")]
        let float = |number: i64| number as f64;
        let most = getrlimit(Resource::Nofile).current.and_then(|most| i64::try_from(most).ok());
        gauge("process_open_fds", "Open file descriptors.", open_files().map(float))?;
        gauge("process_max_fds", "Limit of open file descriptors.", most.map(float))?;
        let Some(facts) = Facts::read() else { return Ok(()) };
        let (resident, size) = (float(facts.resident_bytes), float(facts.virtual_bytes));
        gauge("process_resident_memory_bytes", "Resident memory.", Some(resident))?;
        gauge("process_virtual_memory_bytes", "Virtual memory.", Some(size))?;
        gauge("process_threads", "Threads.", Some(float(facts.threads)))?;
        let start = Some(facts.start_seconds);
        let help = "Time at which the process started, seconds since 1970.";
        gauge("process_start_time_seconds", help, start)?;
        let help = "Processor time, of user and system.";
        let out =
            encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(facts.cpu_seconds).encode(out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn reads_the_files_of_the_kernel() {
        let process =
            "42 (a) (b c) S 1 1 1 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 7 0 1000 4096000 300 18";
        let facts = Facts::of(process, "cpu 1 2\nbtime 1700000000\nx 1\n", 300);
        let expected = Facts {
            cpu_seconds: 3.0,
            threads: 7,
            virtual_bytes: 4_096_000,
            resident_bytes: 300,
            start_seconds: 1_700_000_010.0,
        };
        assert_eq!(facts, Some(expected));
        assert_eq!(Facts::of("42 (a) S 1", "btime 1\n", 300), None);
    }

    #[test]
    fn measures_this_process() {
        let facts = Facts::read().expect("readable");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(facts.threads >= 1 && facts.resident_bytes > 1 << 20, "{facts:?}");
        assert!(facts.start_seconds > 0.0 && facts.start_seconds < now + 60.0, "{facts:?}");
        let held = fs::File::open("/proc/self/stat").expect("opened");
        assert!(open_files().is_some_and(|count| count >= 1));
        drop(held);
        let (mut registry, mut text) = (Registry::default(), String::new());
        register(&mut registry);
        register_build(&mut registry);
        encode(&mut text, &registry).expect("encoded");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert!(text.contains("\nbuild_info{version=\""), "{text}");
    }
}
