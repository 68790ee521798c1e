//! Operations on `mutualTlsOauthConfigurations`.

use hyper::Method;
use serde_json::Value;

use crate::directory::call::Call;
use crate::directory::errors::Fault;
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::responses::Success;
use crate::directory::shapes::{Entity, MutualTlsOauthConfiguration};
use crate::directory::validate::configurations as validate;
use crate::directory::{list, objects};
use crate::store::Collection;

const KIND: Collection = Collection::MutualTlsOauthConfigurations;
/// Maximum number of configurations: a gateway can follow the devices of as many.
const MAX_OBJECTS: u64 = 10_000;
const CONTEXT: &str = "directory/certificateAuthorities/mutualTlsOauthConfigurations";

type Configuration = MutualTlsOauthConfiguration;

pub(super) async fn collection(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::page::<Configuration>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Configuration>(&call.query, AllowedOptions::None)?;
            let new = validate::create_configuration(&call.object()?, call.now)?;
            check_fits_in_request(call, &new)?;
            let version = objects::create(call, KIND, &new, Some(MAX_OBJECTS)).await?;
            Ok(Success::Created(objects::json(call, &new, CONTEXT, version), version))
        }
        _ => Err(Fault::MethodNotAllowed("GET, POST")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::count::<Configuration>(call, KIND).await,
        _ => Err(Fault::MethodNotAllowed("GET")),
    }
}

pub(super) async fn item(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => objects::get::<Configuration>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Configuration>(&call.query, AllowedOptions::None)?;
            let body = call.object()?;
            let change = |stored: &Configuration| {
                let updated = validate::update_configuration(stored, &body, call.now)?;
                check_fits_in_request(call, &updated).map(|()| updated)
            };
            let (updated, version) = objects::update(call, KIND, id, change).await?;
            Ok(Success::Object(objects::json(call, &updated, CONTEXT, version), version))
        }
        Method::DELETE => objects::remove::<Configuration>(call, KIND, id).await,
        _ => Err(Fault::MethodNotAllowed("GET, PATCH, DELETE")),
    }
}

/// Rejects a configuration that a client could not send back.
///
/// A client changes the list of authorities by sending the whole list.  The stored list, including the
/// properties that are computed from the certificates, must therefore fit in a request body.  An eighth
/// of the limit is reserved for different formatting of the JSON.
fn check_fits_in_request(call: &Call, configuration: &Configuration) -> Result<(), Fault> {
    const LIST: &str = "certificateAuthorities";
    let limit = call.body_limit / 8 * 7;
    let bytes = Value::Object(configuration.json()).to_string().len();
    if bytes <= limit {
        return Ok(());
    }
    Err(Fault::Property {
        property: LIST,
        resource: "MutualTlsOauthConfiguration",
        target: LIST.into(),
        why: format!("{bytes} bytes of JSON with computed properties; at most {limit} are allowed"),
    })
}
