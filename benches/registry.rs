//! What does a registry of a million devices cost: memory, a start, a look-up, a change?

use std::ffi::OsStr;
use std::hint::black_box;
use std::process::Command;

use anchorgate::trust::configurations::ConfigurationId;
use anchorgate::trust::devices::{
    Change, DeviceKey, DeviceRegistry, KnownTo, NewState, ObjectKey, Standing,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const DEVICES: usize = 1_000_000;
/// Variable with the file of a registry; the process then only measures its memory.
const FILE: &str = "ANCHORGATE_BENCH_REGISTRY";
/// Objects on a page of a response.
const PAGE: usize = 1_000;

fn name(n: usize) -> String {
    format!("meter-{n}.berlin.fleet.example")
}

fn change(n: usize, enabled: bool) -> Change {
    Change {
        object: ObjectKey::of(&format!("00000000-0000-4000-8000-{n:012}")),
        state: NewState::Is {
            device: Some(Some(DeviceKey::of(&name(n)))),
            enabled: Some(enabled),
            known_to: Some(KnownTo::Only("fleet".into())),
        },
    }
}

/// Builds a registry page by page, like the sync.
fn enumerate(devices: usize) -> DeviceRegistry {
    let mut registry = DeviceRegistry::default();
    for page in 0..devices.div_ceil(PAGE) {
        let changes: Vec<_> =
            (page * PAGE..devices.min((page + 1) * PAGE)).map(|n| change(n, true)).collect();
        registry = registry.changed(&changes, devices).expect("within the limit").0;
    }
    registry
}

/// Resident memory of this process in bytes.  Linux only.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

/// Measures a registry in a new process.  In this process, memory that was freed while building would be
/// reused and not be counted.
fn measure(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("registry");
    std::fs::write(&file, bytes).expect("written");
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program);
    let ended = child.arg("--bench").env(FILE, &file).status().expect("it runs");
    assert!(ended.success());
}

fn measure_here(file: &OsStr) -> ! {
    let bytes = std::fs::read(file).expect("the file");
    let before = resident();
    let registry = DeviceRegistry::read(&bytes, DEVICES).expect("what was written");
    let devices = registry.counts().devices;
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = after.saturating_sub(before) as f64 / devices as f64;
        println!("{each:.1} bytes a device in memory; {} in the file", bytes.len() / devices);
    }
    std::process::exit(0);
}

fn registry(c: &mut Criterion) {
    if let Some(file) = std::env::var_os(FILE) {
        measure_here(&file);
    }
    let mut bytes = Vec::new();
    enumerate(DEVICES).write(&mut bytes);
    measure(&bytes);
    let registry = DeviceRegistry::read(&bytes, DEVICES).expect("what was written");
    let again = DeviceRegistry::read(&bytes, DEVICES).expect("what was written");
    assert!(registry.difference(&again).is_empty());

    let mut group = c.benchmark_group("registry");
    group.sample_size(20);
    let configuration = ConfigurationId::from("fleet");
    let device = name(DEVICES / 3);
    for (count, registry) in [("1", &enumerate(1)), ("1,000,000", &registry)] {
        let id = if count == "1" { name(0) } else { device.clone() };
        group.bench_function(format!("look-up among {count}"), |b| {
            b.iter(|| {
                let standing = registry.standing(DeviceKey::of(black_box(&id)), &configuration);
                assert_eq!(standing, Standing::Enabled);
            });
        });
    }
    for changes in [1, PAGE] {
        let news: Vec<_> = (0..changes).map(|n| change(n * 7, false)).collect();
        group.bench_function(format!("{changes} changes in 1,000,000"), |b| {
            b.iter_batched(
                || registry.clone(),
                |registry| registry.changed(&news, DEVICES).expect("within the limit"),
                BatchSize::SmallInput,
            );
        });
    }
    group.sample_size(10);
    group.bench_function("difference of two that share nothing", |b| {
        b.iter(|| black_box(registry.difference(&again)));
    });
    group.bench_function("read 1,000,000 from disk's bytes", |b| {
        b.iter(|| DeviceRegistry::read(black_box(&bytes), DEVICES).expect("a registry"));
    });
    group.bench_function("enumerate 1,000,000 in pages of 1,000", |b| {
        b.iter(|| enumerate(black_box(DEVICES)));
    });
    group.finish();
}

criterion_group!(benches, registry);
criterion_main!(benches);
