//! Files and databases of the first version of the program.

use std::path::Path;

use anchorgate::store::{Collection, Since, Store, StoreError};
use redb::{Database, MultimapTableDefinition, TableDefinition};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, SqlSafeStr, query};
use tokio::time::timeout;

use crate::changes::{Reader, all};
use crate::{C, LONG, Place, open};

const T: Collection = Collection::DeviceTemplates;

/// Tables of the first version.
const OBJECTS: TableDefinition<'_, &str, (u64, &[u8])> =
    TableDefinition::new("mutualTlsOauthConfigurations");
const TEMPLATES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("deviceTemplates");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REFERENCES: TableDefinition<'_, (&str, &str), (&str, &str)> =
    TableDefinition::new("references");
const REFERRERS: MultimapTableDefinition<'_, (&str, &str), (&str, &str)> =
    MultimapTableDefinition::new("referrers");

/// Writes like the first version: the objects and the number of the change.
fn first_version(path: &Path, objects: &[(&str, u64)], gone: &[&str], version: u64) {
    let database = Database::create(path).expect("a file");
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut table = transaction.open_table(OBJECTS).expect("a table");
        for (id, version) in objects {
            table.insert(id, (*version, id.as_bytes())).expect("stored");
        }
        for id in gone {
            table.remove(id).expect("removed");
        }
        transaction.open_table(META).expect("a table").insert("version", version).expect("it");
    }
    transaction.commit().expect("on the disk");
}

#[tokio::test]
async fn opens_a_file_of_the_first_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("directory.redb");
    first_version(&path, &[("a", 3), ("b", 2), ("c", 7)], &[], 9);
    let database = Database::create(&path).expect("a file");
    let transaction = database.begin_write().expect("a transaction");
    {
        let name = |id: &'static str| ("deviceTemplates", id);
        let target = ("mutualTlsOauthConfigurations", "a");
        let mut templates = transaction.open_table(TEMPLATES).expect("a table");
        let mut references = transaction.open_table(REFERENCES).expect("a table");
        let mut referrers = transaction.open_multimap_table(REFERRERS).expect("a table");
        templates.insert("t", (8, b"t".as_slice())).expect("stored");
        references.insert(name("t"), target).expect("stored");
        referrers.insert(target, name("t")).expect("stored");
    }
    transaction.commit().expect("on the disk");
    drop(database);

    let store = Store::open(&path).await.expect("a store");
    assert_eq!(store.version(C).await.ok(), Some(9), "every object may be the last change");
    let refused = store.remove(C, "a", None).await;
    assert!(matches!(&refused, Err(StoreError::Referenced(by)) if by == "t"), "{refused:?}");
    assert_eq!(store.referrers((C, "a"), T, None, 9).await.expect("a page")[0].body, b"t");
    let refused = store.changes_since(C, Since::version(8), 9).await;
    assert!(matches!(refused, Err(StoreError::HistoryExpired(8))), "{refused:?}");
    let mut reader = Reader::begin(&store).await;
    reader.follow(&store, 2).await.expect("followed");
    assert_eq!((reader.objects.len(), reader.seen), (3, 7));
    let ten = store.insert(C, "d", b"d".to_vec(), None).await.expect("stored");
    assert_eq!(ten, 10);
    store.remove(C, "b", None).await.expect("removed");
    reader.follow(&store, 2).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);

    // The first version is used again for a while.  It does not maintain the records of changes.
    drop(store);
    first_version(&path, &[("d", 12), ("e", 14)], &["c"], 14);
    let store = Store::open(&path).await.expect("a store");
    assert_eq!(store.version(C).await.ok(), Some(14));
    let refused = reader.follow(&store, 2).await;
    assert!(matches!(refused, Err(StoreError::HistoryExpired(_))), "{refused:?}");
    let mut reader = Reader::begin(&store).await;
    reader.follow(&store, 2).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);
    assert_eq!(reader.objects.keys().collect::<Vec<_>>(), ["a", "d", "e"]);
}

/// Runs a statement like the first version: with the number of the change and the notification.
async fn first_statement(connection: &mut PgConnection, statement: &'static str) {
    let whole = [
        "BEGIN",
        "UPDATE directory_version SET version = version + 1",
        statement,
        "SELECT pg_notify('anchorgate_directory', '')",
        "COMMIT",
    ];
    for statement in whole {
        query(statement).execute(&mut *connection).await.expect(statement);
    }
}

const INSERT: &str = "INSERT INTO directory_object (collection, id, version, body) \
     SELECT 'mutualTlsOauthConfigurations', 'old', version, 'x' FROM directory_version";

#[tokio::test(flavor = "multi_thread")]
async fn shares_a_database_with_the_first_version() {
    let place = Place::database().await;
    let options: PgConnectOptions = place.text().parse().expect("a URL");
    let mut old = options.connect().await.expect("a connection");
    let sql = include_str!("../../src/store/postgres/migrations/0001_objects.sql").into_sql_str();
    let first = Migration::new(1, "objects".into(), MigrationType::Simple, sql, false);
    Migrator::with_migrations(vec![first]).run_direct(None, &mut old, false).await.expect("made");
    first_statement(&mut old, INSERT).await;
    first_statement(&mut old, "DELETE FROM directory_object").await;
    first_statement(&mut old, INSERT).await;

    let store = open(&place.text()).await;
    assert_eq!((store.count(C).await.ok(), store.version(C).await.ok()), (Some(1), Some(3)));
    let refused = store.changes_since(C, Since::version(2), 9).await;
    assert!(matches!(refused, Err(StoreError::HistoryExpired(2))), "{refused:?}");
    let mut reader = Reader::begin(&store).await;
    reader.follow(&store, 9).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);

    // A replica of the first version is still running.
    let mut changes_seen = store.changes();
    changes_seen.mark_unchanged();
    first_statement(&mut old, "UPDATE directory_object SET body = 'y', version = 4").await;
    let notified = changes_seen.wait_for(|now| now.of(C) == 4);
    timeout(LONG, notified).await.expect("notified").expect("open");
    reader.follow(&store, 9).await.expect("followed");
    assert_eq!(reader.objects["old"], b"y");
    first_statement(&mut old, "DELETE FROM directory_object").await;
    reader.follow(&store, 9).await.expect("followed");
    assert!(reader.objects.is_empty());
    assert_eq!(store.count(C).await.ok(), Some(0));
}
