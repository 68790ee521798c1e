//! Operations on `certificateBasedApplicationConfigurations` and their authorities.

use hyper::Method;
use serde_json::{Map, Value};

use crate::directory::call::Call;
use crate::directory::errors::Fault;
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::responses::{Success, entity_tag};
use crate::directory::shapes::{ApplicationConfiguration, CertificateAuthorityAsEntity, Entity};
use crate::directory::validate::applications as validate;
use crate::directory::{list, objects};
use crate::store::Collection;

const KIND: Collection = Collection::ApplicationConfigurations;
const AUTHORITIES: &str = "trustedCertificateAuthorities";
const CONTEXT: &str = "directory/certificateAuthorities/certificateBasedApplicationConfigurations";
/// Maximum number of configurations, as in an Entra tenant.
const MAX_OBJECTS: u64 = 100;

type Application = ApplicationConfiguration;
type Authority = CertificateAuthorityAsEntity;

pub(super) async fn collection(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::page::<Application>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Application>(&call.query, AllowedOptions::None)?;
            let new = validate::create_application(&call.object()?, call.now)?;
            let version = objects::create(call, KIND, &new, Some(MAX_OBJECTS)).await?;
            let mut json = objects::json(call, &new, CONTEXT, version);
            // The response includes the authorities, with their new ids.
            json.insert(AUTHORITIES.into(), new.json().remove(AUTHORITIES).unwrap_or_default());
            // 200, not 201, as in the documentation of this operation.
            Ok(Success::Object(json, version))
        }
        _ => Err(Fault::MethodNotAllowed("GET, POST")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::count::<Application>(call, KIND).await,
        _ => Err(Fault::MethodNotAllowed("GET")),
    }
}

pub(super) async fn item(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => objects::get::<Application>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Application>(&call.query, AllowedOptions::None)?;
            let body = call.object()?;
            let change = |stored: &Application| validate::update_application(stored, &body);
            objects::update(call, KIND, id, change).await.map(|_| Success::NoContent)
        }
        Method::DELETE => objects::remove::<Application>(call, KIND, id).await,
        _ => Err(Fault::MethodNotAllowed("GET, PATCH, DELETE")),
    }
}

pub(super) async fn authorities(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => {
            let query = Query::parse::<Authority>(&call.query, AllowedOptions::Object)?;
            let (record, application) = objects::load::<Application>(call, KIND, id).await?;
            let value = application
                .trusted_certificate_authorities
                .iter()
                .map(|authority| Value::Object(query.shape(authority)))
                .collect();
            let context =
                format!("{}/$metadata#{}{}", call.root, context_of(id), query.selection());
            let mut json = Map::new();
            json.insert("@odata.context".into(), context.into());
            json.insert("value".into(), value);
            Ok(Success::List(json, entity_tag(record.version)))
        }
        Method::POST => {
            Query::parse::<Authority>(&call.query, AllowedOptions::None)?;
            let body = call.object()?;
            let change = |stored: &Application| validate::add_authority(stored, &body, call.now);
            let (updated, version) = objects::update(call, KIND, id, change).await?;
            let new = updated.trusted_certificate_authorities.last();
            // The change has added an authority, so the list is not empty.
            let new = new.ok_or_else(|| Fault::NotFound(id.into()))?;
            Ok(Success::Created(objects::json(call, new, &context_of(id), version), version))
        }
        _ => Err(Fault::MethodNotAllowed("GET, POST")),
    }
}

pub(super) async fn count_authorities(call: &Call, id: &str) -> Result<Success, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed("GET"));
    }
    Query::parse::<Authority>(&call.query, AllowedOptions::None)?;
    let (_, application) = objects::load::<Application>(call, KIND, id).await?;
    Ok(Success::Number(application.trusted_certificate_authorities.len() as u64))
}

pub(super) async fn authority(call: &Call, id: &str, authority: &str) -> Result<Success, Fault> {
    let absent = || Fault::NotFound(authority.into());
    match call.method {
        Method::GET => {
            let query = Query::parse::<Authority>(&call.query, AllowedOptions::Object)?;
            let (record, application) = objects::load::<Application>(call, KIND, id).await?;
            let list = &application.trusted_certificate_authorities;
            let found = list.iter().find(|a| a.id == authority).ok_or_else(absent)?;
            let mut object = query.shape(found);
            let context =
                format!("{}/$metadata#{}{}/$entity", call.root, context_of(id), query.selection());
            object.insert("@odata.context".into(), context.into());
            object.insert("@odata.etag".into(), entity_tag(record.version).into());
            Ok(Success::Object(object, record.version))
        }
        Method::PATCH => {
            Query::parse::<Authority>(&call.query, AllowedOptions::None)?;
            let body = call.object()?;
            let change = |stored: &Application| {
                validate::update_authority(stored, authority, &body, call.now)
            };
            objects::update(call, KIND, id, change).await.map(|_| Success::NoContent)
        }
        Method::DELETE => {
            let change = |stored: &Application| {
                let mut updated = stored.clone();
                updated.trusted_certificate_authorities.retain(|a| a.id != authority);
                if updated == *stored { Err(absent()) } else { Ok(updated) }
            };
            objects::update(call, KIND, id, change).await.map(|_| Success::NoContent)
        }
        _ => Err(Fault::MethodNotAllowed("GET, PATCH, DELETE")),
    }
}

fn context_of(id: &str) -> String {
    format!("{CONTEXT}('{id}')/{AUTHORITIES}")
}
