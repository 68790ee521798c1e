//! Lists of stored objects: filters, pages, counts, and waiting for changes.

use std::sync::Arc;

use hyper::header;
use serde_json::{Map, Value};

use crate::directory::call::{Call, tags_match};
use crate::directory::errors::{Fault, store_fault};
use crate::directory::in_flight::PAGE;
use crate::directory::objects::decode;
use crate::directory::odata::{AllowedOptions, Filter, Query};
use crate::directory::responses::{Encoded, Success, accepts_gzip, entity_tag};
use crate::directory::shapes::Entity;
use crate::directory::shared_pages::Key;
use crate::store::{Collection, READ_BYTES, Record, StoreError, may_have_more};

/// Number of objects that are read from the store at once.
const BATCH: usize = 100;

/// Bytes of stored objects in a page.  The page then ends with a link to the next one.  Gateways accept
/// pages of twice this length, because the JSON of a page has more than the stored bytes.
pub(super) const PAGE_BYTES: usize = READ_BYTES;

/// Maximum number of objects that are scanned for one page, and for one count.  If few objects match the filter, a page is
/// short and has a link to the next one.  This limits the time of a request.
const MAX_SCANNED: usize = 2_000;

/// Part of a collection.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    /// Objects that refer to one object.
    Referring(Collection, &'a str),
}

/// GET of a collection.
pub(super) async fn page<E: Entity>(
    call: &Call,
    collection: Collection,
    context: &str,
) -> Result<Success, Fault> {
    page_of::<E>(call, collection, Scope::All, context).await
}

/// GET of a part of a collection.
pub(super) async fn page_of<E: Entity>(
    call: &Call,
    collection: Collection,
    scope: Scope<'_>,
    context: &str,
) -> Result<Success, Fault> {
    let query = Query::parse::<E>(&call.query, AllowedOptions::List)?;
    // The tag is read before the objects.  After a change in between, it is too old and never too new.
    let tag = match wait_for_change(call, collection).await? {
        Waited::Changed(tag) => tag,
        Waited::Unchanged(tag) => return Ok(Success::Unchanged(tag)),
    };
    if let Some(key) = shared_key(call, collection, scope, &query, &tag) {
        let gzip = key.gzip;
        let build = |reserved| async {
            let json = objects_of::<E>(call, collection, scope, context, &query).await?;
            Ok(Encoded::new(json, Some(reserved), gzip))
        };
        if let Some(page) = call.pages.get(key, &call.in_flight, build).await? {
            return Ok(Success::Page(page, tag));
        }
    }
    call.reserve(PAGE).await;
    Ok(Success::List(objects_of::<E>(call, collection, scope, context, &query).await?, tag))
}

/// The key of a page that other requests can share: configurations, which every gateway reads.
fn shared_key(
    call: &Call,
    collection: Collection,
    scope: Scope<'_>,
    query: &Query,
    tag: &str,
) -> Option<Key> {
    let is_shared = matches!(
        collection,
        Collection::MutualTlsOauthConfigurations | Collection::ApplicationConfigurations
    ) && matches!(scope, Scope::All)
        && query.filter.is_none();
    is_shared.then(|| Key {
        root: Arc::clone(&call.root),
        path: call.path.clone(),
        query: call.query.clone(),
        gzip: accepts_gzip(&call.headers),
        tag: tag.to_owned(),
    })
}

/// Reads the objects of a page and returns its JSON.
async fn objects_of<E: Entity>(
    call: &Call,
    collection: Collection,
    scope: Scope<'_>,
    context: &str,
    query: &Query,
) -> Result<Map<String, Value>, Fault> {
    let size = query.top.unwrap_or(call.page_size);
    let (mut page, mut last) = (Vec::with_capacity(size.min(BATCH)), None);
    let filter = query.filter.as_ref();
    let mut scan = Scan::new::<E>(call, collection, scope, filter, query.after.clone());
    let mut bytes = 0;
    let more = loop {
        match scan.next::<E>().await? {
            Step::Found(..) if page.len() == size || bytes >= PAGE_BYTES => break true,
            Step::Found(record, entity) => {
                bytes += record.body.len();
                last = Some(record.id.clone());
                page.push((record, entity));
            }
            Step::LimitReached(at) => {
                last = Some(at);
                break true;
            }
            Step::End => break false,
        }
    };
    let mut json = Map::new();
    let selection = query.selection();
    json.insert(
        "@odata.context".into(),
        format!("{}/$metadata#{context}{selection}", call.root).into(),
    );
    if query.count {
        let count = count_matching::<E>(call, collection, scope, filter).await?;
        json.insert("@odata.count".into(), count.into());
    }
    if let (true, Some(last)) = (more, last) {
        let root = call.root.strip_suffix("/beta").unwrap_or(&call.root);
        let next = format!("{root}{}?{}", call.path, query.next(&last));
        json.insert("@odata.nextLink".into(), next.into());
    }
    let value = page.into_iter().map(|(record, entity)| {
        let mut object = query.shape(&entity);
        object.insert("@odata.etag".into(), entity_tag(record.version).into());
        Value::Object(object)
    });
    json.insert("value".into(), value.collect());
    Ok(json)
}

/// Result of waiting for a change, with the collection's entity tag.
enum Waited {
    Changed(String),
    Unchanged(String),
}

/// Waits for at most the preferred time until the entity tag differs from `If-None-Match`.
async fn wait_for_change(call: &Call, collection: Collection) -> Result<Waited, Fault> {
    // Subscribe before reading the version, so that no change in between is missed.
    let mut changes = call.store.changes();
    let before = *changes.borrow_and_update();
    let read = || async { state(call, collection).await.map_err(|error| store_fault(error, "")) };
    let (version, tag) = read().await?;
    match call.header(&header::IF_NONE_MATCH) {
        Some(tags) if tags_match(tags, &tag) => {}
        _ => return Ok(Waited::Changed(tag)),
    }
    let wait = call.wait();
    let change = changes.wait_for(|now| now.changed_since(&before, collection, version));
    let changed = call.wait_for(change).await;
    // Read again: if the store became unavailable meanwhile, it does not report changes.
    let tag = if wait.is_zero() { tag } else { read().await?.1 };
    Ok(if changed { Waited::Changed(tag) } else { Waited::Unchanged(tag) })
}

/// Reads a collection's version and returns it with the entity tag.
///
/// The tag includes the identity of the store: a store that the same script created again reaches the
/// same version with other objects.
async fn state(call: &Call, collection: Collection) -> Result<(u64, String), StoreError> {
    const IDENTITY_LENGTH: usize = 8;
    let version = call.store.version(collection).await?;
    let store: String = call.store.identity().await?.chars().take(IDENTITY_LENGTH).collect();
    Ok((version, format!("W/\"{version}-{store}\"")))
}

/// GET of a `$count`.
pub(super) async fn count<E: Entity>(
    call: &Call,
    collection: Collection,
) -> Result<Success, Fault> {
    count_of::<E>(call, collection, Scope::All).await
}

/// GET of the `$count` of a part of a collection.
pub(super) async fn count_of<E: Entity>(
    call: &Call,
    collection: Collection,
    scope: Scope<'_>,
) -> Result<Success, Fault> {
    let query = Query::parse::<E>(&call.query, AllowedOptions::Count)?;
    // A count with a filter reads as many objects as a page.
    if query.filter.is_some() {
        call.reserve(PAGE).await;
    }
    let count = count_matching::<E>(call, collection, scope, query.filter.as_ref()).await?;
    Ok(Success::Number(count))
}

async fn count_matching<E: Entity>(
    call: &Call,
    collection: Collection,
    scope: Scope<'_>,
    filter: Option<&Filter>,
) -> Result<u64, Fault> {
    if let (Scope::All, None) = (scope, filter) {
        return call.store.count(collection).await.map_err(|e| store_fault(e, ""));
    }
    let mut scan = Scan::new::<E>(call, collection, scope, filter, None);
    let mut count = 0;
    loop {
        match scan.next::<E>().await? {
            Step::Found(..) => count += 1,
            Step::LimitReached(_) => {
                return Err(Fault::Query(format!(
                    "This count would scan more than {MAX_SCANNED} objects: read the pages instead, \
                     or filter by id."
                )));
            }
            Step::End => return Ok(count),
        }
    }
}

/// Scan of a collection in batches, so that memory stays bounded.
struct Scan<'a> {
    call: &'a Call,
    collection: Collection,
    scope: Scope<'a>,
    filter: Option<&'a Filter>,
    /// Ids of the only objects that can match the filter, if it determines them.
    ids: Option<std::collections::btree_set::IntoIter<String>>,
    after: Option<String>,
    batch: std::vec::IntoIter<Record>,
    ended: bool,
    scanned: usize,
}

enum Step<E> {
    Found(Record, E),
    /// [`MAX_SCANNED`] objects were scanned; the last one had this id.
    LimitReached(String),
    End,
}

impl<'a> Scan<'a> {
    fn new<E: Entity>(
        call: &'a Call,
        collection: Collection,
        scope: Scope<'a>,
        filter: Option<&'a Filter>,
        after: Option<String>,
    ) -> Self {
        let ids = filter.filter(|_| matches!(scope, Scope::All)).and_then(Filter::ids::<E>);
        let ids = ids.map(|mut ids| match &after {
            Some(after) => ids.split_off(&format!("{after}\0")).into_iter(),
            None => ids.into_iter(),
        });
        let batch = Vec::new().into_iter();
        Self { call, collection, scope, filter, ids, after, batch, ended: false, scanned: 0 }
    }

    async fn next<E: Entity>(&mut self) -> Result<Step<E>, Fault> {
        loop {
            for record in self.batch.by_ref() {
                let entity = decode::<E>(&record.id, &record.body)?;
                if self.filter.is_none_or(|filter| filter.matches(&entity)) {
                    return Ok(Step::Found(record, entity));
                }
            }
            if self.ended {
                return Ok(Step::End);
            }
            match &self.after {
                Some(after) if self.scanned >= MAX_SCANNED => {
                    return Ok(Step::LimitReached(after.clone()));
                }
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
        let batch = match self.scope {
            Scope::All => store.list(self.collection, after, BATCH).await?,
            Scope::Referring(kind, id) => {
                store.referrers((kind, id), self.collection, after, BATCH).await?
            }
        };
        self.ended = !may_have_more(batch.iter().map(|record| record.body.len()), BATCH);
        self.after = batch.last().map(|record| record.id.clone());
        Ok(batch)
    }
}
