//! `mutualTlsOauthConfigurations`.

use hyper::Method;
use serde_json::Value;

use crate::directory::errors::Fault;
use crate::directory::odata::{Query, Takes};
use crate::directory::shapes::{Entity, MutualTlsOauthConfiguration};
use crate::directory::{Answer, Call, list, validate};
use crate::store::Collection;

const KIND: Collection = Collection::MutualTlsOauthConfigurations;
/// Objects of this type in one directory: as many as a gateway follows devices for.
const MOST: u64 = 10_000;
const CONTEXT: &str = "directory/certificateAuthorities/mutualTlsOauthConfigurations";

type Configuration = MutualTlsOauthConfiguration;

pub(super) async fn collection(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::page::<Configuration>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Configuration>(&call.query, Takes::Nothing)?;
            let new = validate::create_configuration(&call.object()?, call.now)?;
            can_be_sent_back(call, &new)?;
            let version = list::create(call, KIND, &new, Some(MOST)).await?;
            Ok(Answer::Created(list::answer(call, &new, CONTEXT, version), version))
        }
        _ => Err(Fault::Method("GET, POST")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::count::<Configuration>(call, KIND).await,
        _ => Err(Fault::Method("GET")),
    }
}

pub(super) async fn one(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::get::<Configuration>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Configuration>(&call.query, Takes::Nothing)?;
            let body = call.object()?;
            let change = |stored: &Configuration| {
                let updated = validate::update_configuration(stored, &body, call.now)?;
                can_be_sent_back(call, &updated).map(|()| updated)
            };
            let (updated, version) = list::update(call, KIND, id, change).await?;
            Ok(Answer::Object(list::answer(call, &updated, CONTEXT, version), version))
        }
        Method::DELETE => list::remove::<Configuration>(call, KIND, id).await,
        _ => Err(Fault::Method("GET, PATCH, DELETE")),
    }
}

/// A list is changed by sending the whole of it: what is stored, with what is computed from the
/// certificates, must be short enough for that, an eighth being left to how a client writes JSON.
fn can_be_sent_back(call: &Call, made: &Configuration) -> Result<(), Fault> {
    const LIST: &str = "certificateAuthorities";
    let most = call.directory.inner.config.body_limit / 8 * 7;
    let bytes = Value::Object(made.json()).to_string().len();
    if bytes <= most {
        return Ok(());
    }
    Err(Fault::Property {
        property: LIST,
        resource: "MutualTlsOauthConfiguration",
        target: LIST.into(),
        why: format!("{bytes} bytes of JSON with what is computed; at most {most} are taken"),
    })
}
