//! Validation of request bodies.  A body is checked completely before anything is stored.
//!
//! A certificate must be usable by a judge in the role that the request states.  Every error names the
//! property as Graph does, with its path in the body and the violated rule.

pub(in crate::directory) mod applications;
pub(crate) mod certificates;
pub(in crate::directory) mod configurations;
pub(in crate::directory) mod devices;

mod members;

use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::validate::members::UniqueMembers;
use crate::graph::wire;

/// Parses a request body: a JSON object, optionally after a byte order mark (RFC 8259 section 8.1).
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let object = match wire::parse(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(Fault::Payload("the body is not a JSON object".into())),
        Err(error) => return Err(Fault::Payload(error.to_string())),
    };
    serde_json::from_slice::<UniqueMembers>(body)
        .map_err(|error| Fault::Payload(error.to_string()))?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::applications::create_application;
    use super::configurations::{create_configuration, update_configuration};
    use super::*;
    use crate::directory::shapes::Entity;
    use crate::x509::time::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_795_000_000);

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!("tls_client_auth_san_uri")),
            Just(json!("MAMCAQA=")),
            Just(json!("http://pki.example/x.crl")),
        ];
        let key = prop::sample::select(vec![
            "id",
            "@odata.type",
            "displayName",
            "description",
            "deletedDateTime",
            "tlsClientAuthParameter",
            "certificateAuthorities",
            "trustedCertificateAuthorities ",
            "certificate",
            "isRootAuthority",
            "certificateRevocationListUrl",
            "deltaCertificateRevocationListUrl",
        ]);
        leaf.prop_recursive(3, 30, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        /// Random JSON has no certification authority: an accepted body has no authorities.
        #[test]
        fn random_bodies_neither_panic_nor_add_authorities(value in any_json()) {
            let Ok(body) = object(value.to_string().as_bytes()) else { return Ok(()) };
            if let Ok(made) = create_configuration(&body, NOW) {
                prop_assert!(made.certificate_authorities.is_empty());
                let same = made.json();
                prop_assert_eq!(update_configuration(&made, &same, NOW), Ok(made));
            }
            prop_assert!(create_application(&body, NOW).is_err());
        }
    }
}
