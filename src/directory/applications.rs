//! `certificateBasedApplicationConfigurations` and the authorities contained in them.

use hyper::Method;
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::odata::{Query, Takes};
use crate::directory::shapes::{ApplicationConfiguration, CertificateAuthorityAsEntity, Entity};
use crate::directory::{Answer, Call, entity_tag, list, validate};
use crate::store::Collection;

const KIND: Collection = Collection::ApplicationConfigurations;
const AUTHORITIES: &str = "trustedCertificateAuthorities";
const CONTEXT: &str = "directory/certificateAuthorities/certificateBasedApplicationConfigurations";
/// Objects of this type in one directory, as in a tenant.
const MOST: u64 = 100;

type Application = ApplicationConfiguration;
type Authority = CertificateAuthorityAsEntity;

pub(super) async fn collection(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::page::<Application>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Application>(&call.query, Takes::Nothing)?;
            let new = validate::create_application(&call.object()?, call.now)?;
            let version = list::create(call, KIND, &new, Some(MOST)).await?;
            let mut answer = list::answer(call, &new, CONTEXT, version);
            // As deep as it was sent, with the ids that the authorities have got.
            answer.insert(AUTHORITIES.into(), new.json().remove(AUTHORITIES).unwrap_or_default());
            // 200, not 201: so the published page of this operation has it.
            Ok(Answer::Object(answer, version))
        }
        _ => Err(Fault::Method("GET, POST")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::count::<Application>(call, KIND).await,
        _ => Err(Fault::Method("GET")),
    }
}

pub(super) async fn one(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::get::<Application>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Application>(&call.query, Takes::Nothing)?;
            let body = call.object()?;
            let change = |stored: &Application| validate::update_application(stored, &body);
            list::update(call, KIND, id, change).await.map(|_| Answer::Done)
        }
        Method::DELETE => list::remove::<Application>(call, KIND, id).await,
        _ => Err(Fault::Method("GET, PATCH, DELETE")),
    }
}

pub(super) async fn authorities(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => {
            let query = Query::parse::<Authority>(&call.query, Takes::One)?;
            let (record, application) = list::load::<Application>(call, KIND, id).await?;
            let value = application
                .trusted_certificate_authorities
                .iter()
                .map(|authority| Value::Object(query.shape(authority)))
                .collect();
            let context =
                format!("{}/$metadata#{}{}", call.root, context_of(id), query.selection());
            let mut answer = Map::new();
            answer.insert("@odata.context".into(), context.into());
            answer.insert("value".into(), value);
            Ok(Answer::List(answer, entity_tag(record.version)))
        }
        Method::POST => {
            Query::parse::<Authority>(&call.query, Takes::Nothing)?;
            let body = call.object()?;
            let change = |stored: &Application| validate::add_authority(stored, &body, call.now);
            let (updated, version) = list::update(call, KIND, id, change).await?;
            let new = updated.trusted_certificate_authorities.last();
            // The change has just added it.
            let new = new.ok_or_else(|| Fault::NotFound(id.into()))?;
            Ok(Answer::Created(list::answer(call, new, &context_of(id), version), version))
        }
        _ => Err(Fault::Method("GET, POST")),
    }
}

pub(super) async fn count_authorities(call: &Call, id: &str) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::Method("GET"));
    }
    Query::parse::<Authority>(&call.query, Takes::Nothing)?;
    let (_, application) = list::load::<Application>(call, KIND, id).await?;
    Ok(Answer::Number(application.trusted_certificate_authorities.len() as u64))
}

pub(super) async fn authority(call: &Call, id: &str, authority: &str) -> Result<Answer, Fault> {
    let absent = || Fault::NotFound(authority.into());
    match call.method {
        Method::GET => {
            let query = Query::parse::<Authority>(&call.query, Takes::One)?;
            let (record, application) = list::load::<Application>(call, KIND, id).await?;
            let list = &application.trusted_certificate_authorities;
            let found = list.iter().find(|a| a.id == authority).ok_or_else(absent)?;
            let mut object = query.shape(found);
            let context =
                format!("{}/$metadata#{}{}/$entity", call.root, context_of(id), query.selection());
            object.insert("@odata.context".into(), context.into());
            object.insert("@odata.etag".into(), entity_tag(record.version).into());
            Ok(Answer::Object(object, record.version))
        }
        Method::PATCH => {
            Query::parse::<Authority>(&call.query, Takes::Nothing)?;
            let body = call.object()?;
            let change = |stored: &Application| {
                validate::update_authority(stored, authority, &body, call.now)
            };
            list::update(call, KIND, id, change).await.map(|_| Answer::Done)
        }
        Method::DELETE => {
            let change = |stored: &Application| {
                let mut updated = stored.clone();
                updated.trusted_certificate_authorities.retain(|a| a.id != authority);
                if updated == *stored { Err(absent()) } else { Ok(updated) }
            };
            list::update(call, KIND, id, change).await.map(|_| Answer::Done)
        }
        _ => Err(Fault::Method("GET, PATCH, DELETE")),
    }
}

fn context_of(id: &str) -> String {
    format!("{CONTEXT}('{id}')/{AUTHORITIES}")
}
