//! Restore of a store that no process uses.
//!
//! The store is built in a new file, which is then renamed.  The present file can therefore be damaged or
//! missing, and a failure or a crash leaves what was there.

use std::fs::File;
use std::path::Path;

use crate::store::backup::Backup;
use crate::store::embedded::Embedded;
use crate::store::embedded::copy::{self, Present};
use crate::store::embedded::place::Place;
use crate::store::objects::StoreError;

/// Replaces the store at `path`, or creates it, by the backup `file`.
pub(in crate::store) fn restore(
    path: &Path,
    file: &File,
    accept_other: bool,
) -> Result<Backup, StoreError> {
    let backup = copy::check(file)?;
    let place = Place::new(path);
    let noted = place.noted_identity()?;
    let present = present(&place, noted.as_deref());
    if !accept_other {
        present.accept(&backup)?;
    }
    let new = place.new_file()?;
    let store = Embedded::at(&new);
    let built = store.change(|transaction| {
        copy::restore(transaction, file, &backup, &present, noted.as_deref())
    });
    drop(store);
    if let Err(error) = built.and_then(|_| place.put(&new)) {
        // The first error is the one to report.
        let _ = place.new_file();
        return Err(error);
    }
    place.follow(&backup.directory);
    Ok(backup)
}

/// Reads what is at the place.  The identity file, with the identity `noted`, decides which directory it
/// is: the store may be damaged or of another one.
fn present(place: &Place, noted: Option<&str>) -> Present {
    let unknown = |has_objects| Present { has_objects, ..Present::default() };
    let present = match place.fault() {
        None => {
            let read = Embedded::at(place.path()).read(Present::read);
            read.unwrap_or_else(|_| unknown(true))
        }
        Some(_) => unknown(false),
    };
    // A restore that ended before it wrote the identity file has replaced that directory.
    let is_of = [present.directory.as_deref(), present.replaced.as_deref()];
    match noted {
        Some(noted) if !is_of.contains(&Some(noted)) => {
            Present { directory: Some(noted.to_owned()), has_objects: true, ..present }
        }
        _ => present,
    }
}
