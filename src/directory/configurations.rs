//! `mutualTlsOauthConfigurations`.

use axum::http::Method;

use crate::directory::errors::Fault;
use crate::directory::odata::{Query, Takes};
use crate::directory::shapes::MutualTlsOauthConfiguration;
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
            let change =
                |stored: &Configuration| validate::update_configuration(stored, &body, call.now);
            let (updated, version) = list::update(call, KIND, id, change).await?;
            Ok(Answer::Object(list::answer(call, &updated, CONTEXT, version), version))
        }
        Method::DELETE => list::remove::<Configuration>(call, KIND, id).await,
        _ => Err(Fault::Method("GET, PATCH, DELETE")),
    }
}
