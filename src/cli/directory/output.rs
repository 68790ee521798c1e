//! Output for people: objects of a directory as lines of text.

use serde_json::{Value, json};

use crate::cli::output::{Output, no_objects};
use crate::cli::terminal::text;
use crate::graph::wire;
use crate::runtime::text::Cleaned;
use crate::x509::certificate::Certificate;

/// Reports the deletion of an object.
pub(super) fn deleted(id: &str, output: Output) {
    if !output.print(&json!({ "deleted": id })) {
        println!("deleted");
    }
}

/// Prints one object or a list: as JSON or YAML, or each object with `show`.  `name` is that of the objects.
pub(super) fn objects(value: &Value, output: Output, name: &str, show: impl Fn(&Value)) {
    match value {
        value if output.print(value) => {}
        Value::Array(list) if list.is_empty() => no_objects(name),
        Value::Array(list) => list.iter().for_each(show),
        value => show(value),
    }
}

/// Prints the elements of a list of certification authorities.
pub(super) fn authorities(list: &Value) {
    for authority in list.as_array().into_iter().flatten() {
        let kind = match authority["isRootAuthority"].as_bool() {
            Some(true) => "root",
            Some(false) => "intermediate",
            None => "?",
        };
        let der = authority["certificate"].as_str().and_then(wire::binary);
        match der.as_deref().map(Certificate::from_der) {
            Some(Ok(c)) => {
                println!(
                    "  {kind}  {}  until {}  sha256 {}",
                    Cleaned(&c.subject),
                    c.not_after,
                    c.fingerprint
                );
            }
            _ => println!("  {kind}  unreadable certificate"),
        }
        for (name, member) in [
            ("list", "certificateRevocationListUrl"),
            ("delta", "deltaCertificateRevocationListUrl"),
        ] {
            if authority[member].is_string() {
                println!("    {name}  {}", text(&authority[member]));
            }
        }
    }
}
