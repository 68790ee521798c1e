//! Reading and changing stored objects, the same way for every type.

use hyper::header;
use serde_json::{Map, Value, json};

use crate::directory::errors::{Fault, store_fault};
use crate::directory::odata::{Filter, Query, Takes};
use crate::directory::shapes::Entity;
use crate::directory::{Answer, Call, entity_tag, tags_match};
use crate::store::{Collection, Record, StoreError};

/// Objects read from the store at once while a list is filtered.
const BATCH: usize = 100;
/// Times that a change without `If-Match` is applied to what another replica has just written.
const TRIES: usize = 8;

/// Bytes of stored objects in one page, above which it ends with a link to the next: half of what our own
/// readers take of a page, since JSON is not all that is in it.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Objects that are looked at for one page.  A filter that few objects pass gives short pages, with a
/// link to the next, rather than a request without an end.
const SCANNED: usize = 2_000;

/// Which objects of a collection.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// All.
    All,
    /// Those that refer to one.
    Referring(Collection, &'a str),
}

/// GET of a collection.
pub(super) async fn page<E: Entity>(
    call: &Call,
    collection: Collection,
    context: &str,
) -> Result<Answer, Fault> {
    page_of::<E>(call, collection, Of::All, context).await
}

/// GET of a part of a collection.
pub(super) async fn page_of<E: Entity>(
    call: &Call,
    collection: Collection,
    of: Of<'_>,
    context: &str,
) -> Result<Answer, Fault> {
    let query = Query::parse::<E>(&call.query, Takes::List)?;
    // Taken before the objects are read: a change in between makes this page's tag old, not wrong.
    let tag = match wait_for_change(call, collection).await? {
        Waited::Changed(tag) => tag,
        Waited::Unchanged(tag) => return Ok(Answer::Unchanged(tag)),
    };
    let size = query.top.unwrap_or(call.page_size);
    let (mut page, mut last) = (Vec::with_capacity(size.min(BATCH)), None);
    let mut walk = Walk::new::<E>(call, collection, of, query.filter.as_ref(), query.after.clone());
    let mut bytes = 0;
    let more = loop {
        match walk.next::<E>().await? {
            Step::Found(..) if page.len() == size || bytes >= PAGE_BYTES => break true,
            Step::Found(record, entity) => {
                bytes += record.body.len();
                last = Some(record.id.clone());
                page.push((record, entity));
            }
            Step::Tired(at) => {
                last = Some(at);
                break true;
            }
            Step::End => break false,
        }
    };
    let mut answer = Map::new();
    let selection = query.selection();
    answer.insert(
        "@odata.context".into(),
        format!("{}/$metadata#{context}{selection}", call.root).into(),
    );
    if query.count {
        let count = count_matching::<E>(call, collection, of, query.filter.as_ref()).await?;
        answer.insert("@odata.count".into(), count.into());
    }
    if let (true, Some(last)) = (more, last) {
        let root = call.root.strip_suffix("/beta").unwrap_or(&call.root);
        let next = format!("{root}{}?{}", call.path, query.next(&last));
        answer.insert("@odata.nextLink".into(), next.into());
    }
    let value = page.into_iter().map(|(record, entity)| {
        let mut object = query.shape(&entity);
        object.insert("@odata.etag".into(), entity_tag(record.version).into());
        Value::Object(object)
    });
    answer.insert("value".into(), value.collect());
    Ok(Answer::List(answer, tag))
}

/// What came of waiting for a change, with the collection's entity tag.
enum Waited {
    Changed(String),
    Unchanged(String),
}

/// The collection's entity tag, at once or when it is another than `If-None-Match` has.
async fn wait_for_change(call: &Call, collection: Collection) -> Result<Waited, Fault> {
    // Subscribed first: a change after the version is asked for is heard of.
    let mut changes = call.store.changes();
    let before = *changes.borrow_and_update();
    let ask = || async { state(call, collection).await.map_err(|error| store_fault(error, "")) };
    let (version, tag) = ask().await?;
    match call.header(&header::IF_NONE_MATCH) {
        Some(tags) if tags_match(tags, &tag) => {}
        _ => return Ok(Waited::Changed(tag)),
    }
    let wait = call.preferred_wait().unwrap_or_default().min(call.max_wait);
    let news = changes.wait_for(|now| now.changed_since(&before, collection, version));
    let told = tokio::time::timeout(wait, news).await.is_ok();
    // Asked again: a store that was lost meanwhile does not know that nothing has changed.
    let tag = if wait.is_zero() { tag } else { ask().await?.1 };
    Ok(if told { Waited::Changed(tag) } else { Waited::Unchanged(tag) })
}

/// A collection's version and its entity tag.  The tag tells the store, too: one that was made anew, by
/// the same script, comes to the same version with other objects.
async fn state(call: &Call, collection: Collection) -> Result<(u64, String), StoreError> {
    const TOLD: usize = 8;
    let version = call.store.version(collection).await?;
    let store: String = call.store.identity().await?.chars().take(TOLD).collect();
    Ok((version, format!("W/\"{version}-{store}\"")))
}

/// GET of a `$count`.
pub(super) async fn count<E: Entity>(call: &Call, collection: Collection) -> Result<Answer, Fault> {
    count_of::<E>(call, collection, Of::All).await
}

/// GET of the `$count` of a part of a collection.
pub(super) async fn count_of<E: Entity>(
    call: &Call,
    collection: Collection,
    of: Of<'_>,
) -> Result<Answer, Fault> {
    let query = Query::parse::<E>(&call.query, Takes::Count)?;
    count_matching::<E>(call, collection, of, query.filter.as_ref()).await.map(Answer::Number)
}

async fn count_matching<E: Entity>(
    call: &Call,
    collection: Collection,
    of: Of<'_>,
    filter: Option<&Filter>,
) -> Result<u64, Fault> {
    if let (Of::All, None) = (of, filter) {
        return call.store.count(collection).await.map_err(|e| store_fault(e, ""));
    }
    let mut walk = Walk::new::<E>(call, collection, of, filter, None);
    let mut count = 0;
    loop {
        match walk.next::<E>().await? {
            Step::Found(..) => count += 1,
            Step::Tired(_) => walk.scanned = 0,
            Step::End => return Ok(count),
        }
    }
}

/// GET of one object.
pub(super) async fn get<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
    context: &str,
) -> Result<Answer, Fault> {
    let query = Query::parse::<E>(&call.query, Takes::One)?;
    let (record, entity) = load::<E>(call, collection, id).await?;
    let mut object = query.shape(&entity);
    let context = format!("{}/$metadata#{context}{}/$entity", call.root, query.selection());
    object.insert("@odata.context".into(), context.into());
    object.insert("@odata.etag".into(), entity_tag(record.version).into());
    Ok(Answer::Object(object, record.version))
}

/// Stores a new object; `most` is how many there may be.
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

/// Stores a new object that refers to another; what the store refuses is the caller's to say.
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

/// Applies `change` to an object: all of it to one version of the object, never to a mixture of two.
pub(super) async fn update<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
    change: impl Fn(&E) -> Result<E, Fault>,
) -> Result<(E, u64), Fault> {
    let _turn = call.turn(id).await;
    for _ in 0..TRIES {
        let (record, stored) = load::<E>(call, collection, id).await?;
        let conditional = call.precondition(record.version)?;
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
    Err(Fault::Unavailable(format!("`{id}` was changed by others {TRIES} times in a row")))
}

/// DELETE of one object.
pub(super) async fn remove<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
) -> Result<Answer, Fault> {
    let expected = match call.headers.contains_key(header::IF_MATCH) {
        false => None,
        true => {
            let (record, _) = load::<E>(call, collection, id).await?;
            call.precondition(record.version)?;
            Some(record.version)
        }
    };
    call.store.remove(collection, id, expected).await.map_err(|error| store_fault(error, id))?;
    call.audit("delete", E::TYPE, id);
    Ok(Answer::Done)
}

/// One object with its record.
pub(super) async fn load<E: Entity>(
    call: &Call,
    collection: Collection,
    id: &str,
) -> Result<(Record, E), Fault> {
    let record = call.store.get(collection, id).await.map_err(|error| store_fault(error, id))?;
    let entity = decode(&record)?;
    Ok((record, entity))
}

fn encode<E: Entity>(entity: &E) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(entity).map_err(|error| Fault::Unavailable(error.to_string()))
}

fn decode<E: Entity>(record: &Record) -> Result<E, Fault> {
    decode_body(&record.id, &record.body)
}

/// A stored object.
pub(super) fn decode_body<E: Entity>(id: &str, body: &[u8]) -> Result<E, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::Unavailable(format!("stored {} `{id}`: {error}", E::TYPE)))
}

/// Goes through a collection a batch at a time, so that memory stays bounded.
struct Walk<'a> {
    call: &'a Call,
    collection: Collection,
    of: Of<'a>,
    filter: Option<&'a Filter>,
    /// The only objects that can pass the filter, if it names them.
    ids: Option<std::collections::btree_set::IntoIter<String>>,
    after: Option<String>,
    batch: std::vec::IntoIter<Record>,
    ended: bool,
    scanned: usize,
}

enum Step<E> {
    Found(Record, E),
    /// Enough was looked at, the last of it this id.
    Tired(String),
    End,
}

impl<'a> Walk<'a> {
    fn new<E: Entity>(
        call: &'a Call,
        collection: Collection,
        of: Of<'a>,
        filter: Option<&'a Filter>,
        after: Option<String>,
    ) -> Self {
        let ids = filter.filter(|_| matches!(of, Of::All)).and_then(Filter::ids::<E>);
        let ids = ids.map(|mut ids| match &after {
            Some(after) => ids.split_off(&format!("{after}\0")).into_iter(),
            None => ids.into_iter(),
        });
        let batch = Vec::new().into_iter();
        Self { call, collection, of, filter, ids, after, batch, ended: false, scanned: 0 }
    }

    async fn next<E: Entity>(&mut self) -> Result<Step<E>, Fault> {
        loop {
            for record in self.batch.by_ref() {
                let entity = decode::<E>(&record)?;
                if self.filter.is_none_or(|filter| filter.matches(&entity)) {
                    return Ok(Step::Found(record, entity));
                }
            }
            if self.ended {
                return Ok(Step::End);
            }
            match &self.after {
                Some(after) if self.scanned >= SCANNED => return Ok(Step::Tired(after.clone())),
                _ => {}
            }
            let batch = self.read().await.map_err(|error| store_fault(error, ""))?;
            self.scanned += batch.len();
            self.batch = batch.into_iter();
        }
    }

    async fn read(&mut self) -> Result<Vec<Record>, StoreError> {
        let store = &self.call.store;
        if let Some(ids) = &mut self.ids {
            let Some(id) = ids.next() else {
                self.ended = true;
                return Ok(Vec::new());
            };
            return match store.get(self.collection, &id).await {
                Ok(record) => Ok(vec![record]),
                Err(StoreError::Missing) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
        }
        let after = self.after.clone();
        let batch = match self.of {
            Of::All => store.list(self.collection, after, BATCH).await?,
            Of::Referring(kind, id) => {
                store.referrers((kind, id), self.collection, after, BATCH).await?
            }
        };
        self.ended = batch.len() < BATCH;
        self.after = batch.last().map(|record| record.id.clone());
        Ok(batch)
    }
}

/// A created or updated object as it is answered.
pub(super) fn answer<E: Entity>(
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
