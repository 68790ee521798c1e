//! Operations on single stored objects, for every type.

use hyper::header;
use serde_json::{Map, Value, json};

use crate::directory::call::Call;
use crate::directory::errors::{Fault, store_fault};
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::responses::{Success, entity_tag};
use crate::directory::shapes::Entity;
use crate::store::{Collection, Record, StoreError};

/// Maximum number of attempts to apply a change without `If-Match` while other replicas write.
const UPDATE_ATTEMPTS: usize = 8;

/// GET of one object.
pub(super) async fn get<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
    context: &str,
) -> Result<Success, Fault> {
    let query = Query::parse::<E>(&call.query, AllowedOptions::Object)?;
    let (record, entity) = load::<E>(call, collection, id).await?;
    let mut object = query.shape(&entity);
    let context = format!("{}/$metadata#{context}{}/$entity", call.root, query.selection());
    object.insert("@odata.context".into(), context.into());
    object.insert("@odata.etag".into(), entity_tag(record.version).into());
    Ok(Success::Object(object, record.version))
}

/// Stores a new object, if the collection has fewer than `most` objects.
pub(super) async fn create<E: Entity>(
    call: &Call,
    collection: Collection,
    entity: &E,
    most: Option<u64>,
) -> Result<u64, Fault> {
    let body = encode(entity)?;
    let version = call
        .store
        .insert(collection, entity.id(), body, most)
        .await
        .map_err(|error| store_fault(error, entity.id()))?;
    call.audit("create", E::TYPE, entity.id());
    Ok(version)
}

/// Stores a new object that refers to `target`.  The caller converts the error of the store.
pub(super) async fn create_referring<E: Entity>(
    call: &Call,
    collection: Collection,
    entity: &E,
    most: Option<u64>,
    target: (Collection, &str),
) -> Result<u64, StoreError> {
    let body = serde_json::to_vec(entity).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    let version = call.store.insert_referring(collection, entity.id(), body, most, target).await?;
    call.audit("create", E::TYPE, entity.id());
    Ok(version)
}

/// Applies `change` to one version of an object.
pub(super) async fn update<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
    change: impl Fn(&E) -> Result<E, Fault>,
) -> Result<(E, u64), Fault> {
    let _lock = call.lock(id).await;
    for _ in 0..UPDATE_ATTEMPTS {
        let (record, stored) = load::<E>(call, collection, id).await?;
        let conditional = call.check_precondition(record.version)?;
        let updated = change(&stored)?;
        match call.store.replace(collection, id, record.version, encode(&updated)?).await {
            Ok(version) => {
                call.audit("update", E::TYPE, id);
                return Ok((updated, version));
            }
            Err(StoreError::Changed { .. }) if !conditional => {}
            Err(error) => return Err(store_fault(error, id)),
        }
    }
    Err(Fault::Unavailable(format!(
        "`{id}` was changed by other replicas {UPDATE_ATTEMPTS} times in a row"
    )))
}

/// DELETE of one object.
pub(super) async fn remove<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
) -> Result<Success, Fault> {
    let expected = match call.headers.contains_key(header::IF_MATCH) {
        false => None,
        true => {
            let (record, _) = load::<E>(call, collection, id).await?;
            call.check_precondition(record.version)?;
            Some(record.version)
        }
    };
    call.store.remove(collection, id, expected).await.map_err(|error| store_fault(error, id))?;
    call.audit("delete", E::TYPE, id);
    Ok(Success::NoContent)
}

/// Reads one object and its record.
pub(super) async fn load<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
) -> Result<(Record, E), Fault> {
    let record = call.store.get(collection, id).await.map_err(|error| store_fault(error, id))?;
    let entity = decode(id, &record.body)?;
    Ok((record, entity))
}

fn encode<E: Entity>(entity: &E) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(entity).map_err(|error| Fault::Unavailable(error.to_string()))
}

/// Decodes a stored object.
pub(super) fn decode<E: Entity>(id: &str, body: &[u8]) -> Result<E, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::Unavailable(format!("stored {} `{id}`: {error}", E::TYPE)))
}

/// Returns the JSON of a created or updated object.
pub(super) fn json<E: Entity>(
    call: &Call,
    entity: &E,
    context: &str,
    version: u64,
) -> Map<String, Value> {
    let mut object = Query::default().shape(entity);
    object.insert(
        "@odata.context".into(),
        format!("{}/$metadata#{context}/$entity", call.root).into(),
    );
    object.insert("@odata.id".into(), format!("{}/{context}/{}", call.root, entity.id()).into());
    object.insert("@odata.etag".into(), json!(entity_tag(version)));
    object
}
