//! The table of metrics in `deploy/README.md` lists exactly the metrics of a running gateway.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;

use super::{Gateway, IN_FORCE};

/// A metric: its exposed name and its type.
type Metric = (String, String);

/// The rows of the table.
fn documented() -> BTreeSet<Metric> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/README.md");
    let text = std::fs::read_to_string(file).expect("deploy/README.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Metrics\n"));
    let rows = section.expect("a section `## Metrics`").lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), cells.next()?.to_owned()))
    });
    rows.collect()
}

/// The families in the text of `/metrics`.
fn exposed(text: &str) -> BTreeSet<Metric> {
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    families
        .map(|family| match family.split_once(' ').expect("a name and a type") {
            // OpenMetrics leaves the suffix of the samples out of the family's name.
            (name, "counter") => (format!("{name}_total"), "counter".to_owned()),
            (name, kind) => (name.to_owned(), kind.to_owned()),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_metrics_lists_the_exposed_metrics() {
    // A family appears with its first sample.  So the gateway follows devices too, and answers the token
    // requests of devices that are not registered.
    let edit = |text: String| {
        text.replace(
            "permissions = [",
            "permissions = [\"Device.ReadWrite.All\", \"DeviceTemplate.ReadWrite.All\", ",
        )
        .replace("every = \"2s\"\n", "every = \"1s\"\ndevices = \"registered\"\n")
        .replace("[token]\n", "[token]\nclient_auth = \"report\"\n")
    };
    let gateway = Gateway::start(&[], edit).await;
    let domain = gateway.domain(SubjectField::SanDns);
    gateway.create(domain).await;
    let documented = documented();
    let start = Instant::now();
    loop {
        let mut connection = gateway.connect(&gateway.device(domain, 0)).await;
        let refused = connection.token(&domain.devices[0].subject_id).await.expect("a response");
        assert_eq!(refused.status, 401);
        let (_, text) = gateway.admin("/metrics").await;
        let exposed = exposed(&text);
        let undocumented: Vec<_> = exposed.difference(&documented).collect();
        assert!(undocumented.is_empty(), "not in deploy/README.md: {undocumented:#?}");
        let missing: Vec<_> = documented.difference(&exposed).collect();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < IN_FORCE, "not exposed: {missing:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
