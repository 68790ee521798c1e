//! The table of metrics in `deploy/README.md` lists exactly the metrics of a running gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;

use super::{Gateway, IN_FORCE};

/// Metrics by name: the type, and the labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of the table.
fn documented() -> Metrics {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/README.md");
    let text = std::fs::read_to_string(file).expect("deploy/README.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Metrics\n"));
    let rows = section.expect("a section `## Metrics`").lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let (kind, labels) = (cells.next()?.to_owned(), cells.next()?);
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        Some((name.to_owned(), (kind, labels.filter(|label| !label.is_empty()).collect())))
    });
    rows.collect()
}

/// The families in classic text of `/metrics`, and the labels of their samples.
fn exposed(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (family, kind) = family.split_once(' ').expect("a name and a type");
            let earlier = metrics.insert(family.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert!(earlier.is_none(), "{family} is exposed twice");
            name = family;
        } else if !line.starts_with('#') {
            assert!(line.starts_with(name), "{line} does not belong to {name}");
            let labels = &mut metrics.get_mut(name).expect("a family").1;
            labels.extend(labels_of(line).into_iter().filter(|label| label != "le"));
        }
    }
    metrics
}

/// The names of the labels of a sample.
fn labels_of(line: &str) -> Vec<String> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    // Values of this gateway contain no quotation marks.
    let parts: Vec<&str> = rest.split('"').collect();
    let names = parts.iter().step_by(2).filter_map(|part| part.strip_suffix('='));
    names.map(|name| name.trim_start_matches(',').to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_metrics_lists_the_exposed_metrics() {
    // A family appears with its first sample.  So the gateway follows devices too, and answers the token
    // requests of a device that is registered and of one that is not.
    let edit = |text: String| {
        text.replace(
            "permissions = [",
            "permissions = [\"Device.ReadWrite.All\", \"DeviceTemplate.ReadWrite.All\", ",
        )
        .replace("every = \"2s\"\n", "every = \"1s\"\ndevices = \"registered\"\n")
        .replace("[token]\n", "[token]\nclient_auth = \"report\"\n")
        .replace("[oauth]\n", "[oauth.rotation]\n[oauth]\n")
    };
    let gateway = Gateway::start(&[], edit).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let configuration = gateway.create(domain).await;
    let template = gateway.template(&configuration).await;
    gateway.register(&template, &domain.devices[1].subject_id).await;
    let documented = documented();
    let start = Instant::now();
    loop {
        let mut connection = gateway.connect(&gateway.device(domain, 0)).await;
        let refused = connection.token(&domain.devices[0].subject_id).await.expect("a response");
        assert_eq!(refused.status, 401);
        let mut connection = gateway.connect(&gateway.device(domain, 1)).await;
        connection.token(&domain.devices[1].subject_id).await.expect("a response");
        let (_, text) = gateway.admin("/metrics").await;
        let exposed = exposed(&text);
        for (name, metric) in &exposed {
            let row = documented.get(name);
            assert_eq!(row, Some(metric), "{name} is not so in deploy/README.md");
        }
        let missing: Vec<_> =
            documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < IN_FORCE, "not exposed: {missing:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
